"""The router's servers, HTTP on two ports and gRPC: started together, drained together."""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
from collections.abc import Sequence

import structlog
import uvicorn
from starlette.types import ASGIApp

from services.process.addresses import bound_socket
from services.process.open_files import most_connections, open_files
from services.router.admission_gate import AdmissionGate
from services.router.connection_times import ConnectionTimeouts
from services.router.gateway.admin_port import AdminPort
from services.router.gateway.api_routes import LIMITED
from services.router.gateway.app import build_app
from services.router.gateway.context import GatewayContext
from services.router.gateway.cors import with_cors
from services.router.gateway.grpc_server import GrpcServer
from services.router.http_protocol import HttpProtocol
from services.router.http_server import HttpServer
from services.router.requests.errors import ShuttingDown

log = structlog.get_logger(__name__)

PROXIES = "FORWARDED_ALLOW_IPS"  # uvicorn's own variable: addresses and networks of proxies, or * for any
ADMIN_CONNECTIONS = 64  # at once, whatever clients have open
CLOSE_GRACE_S = 5.0  # for error events and closing sockets, after the drain


class RouterServers:
    """All servers of one router. Everything runs on the event loop that calls `start`."""

    def __init__(
        self,
        gateway: GatewayContext,
        cors_origins: Sequence[str] = (),
        timeouts: ConnectionTimeouts = ConnectionTimeouts(),  # noqa: B008  frozen
    ) -> None:
        self._serving = gateway.serving
        app = build_app(gateway)
        gate = AdmissionGate(self._serving.admission, gateway.access, self._serving.metrics, LIMITED)
        most = most_connections(open_files())
        edge = timeouts, gate.rejection, lambda: self._serving.admission.hurried
        self._http = HttpServer(http_config(with_cors(app, cors_origins), timeouts), most, *edge)
        self._admin = HttpServer(http_config(AdminPort(app), timeouts), ADMIN_CONNECTIONS, *edge)
        self._grpc = GrpcServer(gateway, timeouts.unread_s)
        self._loops: list[asyncio.Task[None]] = []  # of the two HTTP servers and the pool of attention workers
        self.http_port = 0
        self.admin_port = 0
        self.grpc_port = 0

    async def start(self, host: str, port: int, grpc_port: int, admin_host: str, admin_port: int) -> None:
        """Listens on the ports (0 = any free one). Raises OSError or RuntimeError when one is taken."""
        listener, admin = bound_socket(host, port), bound_socket(admin_host, admin_port)
        self.http_port, self.admin_port = listener.getsockname()[1], admin.getsockname()[1]
        self.grpc_port = await self._grpc.start(host, grpc_port)
        self._serving.texts.start()
        await self._serving.attention_workers.refresh()
        self._http.listen(listener)
        self._admin.listen(admin)
        works = self._http.serve(), self._admin.serve(), self._serving.attention_workers.run()
        self._loops = [asyncio.create_task(work) for work in works]

    async def watch(self) -> None:
        """Returns, or raises the error, when one of the background tasks ends by itself."""
        await asyncio.wait(self._loops, return_when=asyncio.FIRST_COMPLETED)
        for task in self._loops:
            if task.done() and not task.cancelled():
                task.result()

    async def stop(self, grace_s: float) -> None:
        """Rejects new requests, lets streams finish within `grace_s`, ends the rest with an error, and closes."""
        *http_loops, pool_loop = self._loops
        for server in (self._http, self._admin):
            server.config.timeout_graceful_shutdown = int(grace_s + CLOSE_GRACE_S)
            server.should_exit = True
        grpc_stop = asyncio.create_task(self._grpc.stop(grace_s + CLOSE_GRACE_S))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace_s):
                await self._serving.idle.wait()
        if self._serving.open_streams:
            log.warning("streams cut short by shutdown", open=len(self._serving.open_streams))
        self._serving.close(ShuttingDown("This server is shutting down; please send the request again."))
        await asyncio.gather(*http_loops, grpc_stop)
        pool_loop.cancel()
        await self._serving.attention_workers.close()
        self._serving.texts.close()


def http_config(app: ASGIApp, timeouts: ConnectionTimeouts) -> uvicorn.Config:
    """The HTTP servers' way of serving. Only proxies that the variable names say for whom they ask: uvicorn would
    believe whoever connects from this machine."""
    proxies = os.environ.get(PROXIES, "")
    return uvicorn.Config(
        app,
        http=HttpProtocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=bool(proxies),
        forwarded_allow_ips=proxies,
        timeout_keep_alive=math.ceil(timeouts.idle_s),
    )
