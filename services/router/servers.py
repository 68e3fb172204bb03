"""The router's two listeners, HTTP and gRPC, over one cluster: started together, drained together."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator

import structlog
import uvicorn

from services.router.gateway.app import build_app
from services.router.gateway.context import GatewayContext
from services.router.gateway.grpc_server import GrpcServer
from services.router.requests.errors import ShuttingDown

log = structlog.get_logger(__name__)

CLOSE_GRACE_S = 5.0  # for error events and closing sockets, after the grace


class HttpServer(uvicorn.Server):
    """uvicorn without its own signal handlers: the process decides when to leave."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.listening.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class RouterServers:
    """Serves one model. Everything runs on the event loop that calls `start`."""

    def __init__(self, service: GatewayContext) -> None:
        self._cluster = service.cluster
        config = uvicorn.Config(
            build_app(service),
            http="httptools",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            backlog=2048,
            timeout_keep_alive=75,
        )
        self._http = HttpServer(config)
        self._grpc = GrpcServer(service)
        self._serving: asyncio.Task[None] | None = None
        self._pool_loop: asyncio.Task[None] | None = None
        self.http_port = 0
        self.grpc_port = 0

    async def start(self, host: str, port: int, grpc_port: int) -> None:
        """Listens on both ports (0 = any free one). Raises OSError or RuntimeError when one is taken."""
        listener = _listen(host, port)
        self.http_port = listener.getsockname()[1]
        self.grpc_port = await self._grpc.start(host, grpc_port)
        await self._cluster.attention_workers.refresh()
        self._pool_loop = asyncio.create_task(self._cluster.attention_workers.run())
        self._serving = asyncio.create_task(self._http.serve(sockets=[listener]))
        await self._http.listening.wait()

    async def watch(self) -> None:
        """Ends, with its error, when a part of the edge ends by itself: background work of the process."""
        assert self._serving is not None
        assert self._pool_loop is not None
        await asyncio.wait([self._serving, self._pool_loop], return_when=asyncio.FIRST_COMPLETED)
        for part in (self._serving, self._pool_loop):
            if part.done() and not part.cancelled():
                part.result()

    async def stop(self, grace_s: float) -> None:
        """Takes nothing new; lets streams finish within `grace_s`; tells the rest with an error, and closes."""
        assert self._serving is not None
        assert self._pool_loop is not None
        self._http.config.timeout_graceful_shutdown = int(grace_s + CLOSE_GRACE_S)
        self._http.should_exit = True
        leaving = asyncio.create_task(self._grpc.stop(grace_s + CLOSE_GRACE_S))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace_s):
                await self._cluster.idle.wait()
        if self._cluster.open_replies:
            log.warning("streams cut short by shutdown", open=len(self._cluster.open_replies))
        self._cluster.close(ShuttingDown("This server is shutting down; please send the request again."))
        await asyncio.gather(self._serving, leaving)
        self._pool_loop.cancel()
        await self._cluster.attention_workers.close()


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError:
        listener.close()
        raise
    return listener
