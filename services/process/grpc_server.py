"""A gRPC server with the standard health service and reflection: on asyncio for streams of tokens, on threads for
experts' calls. Kubernetes asks health for "startup", "liveness" and "readiness" by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NoReturn

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from services.process.addresses import authority
from services.process.loop_server import loop_server
from services.process.malformed import LoopMessages, ThreadMessages
from services.security.guard import OPEN, Guard

ALIVE = ("startup", "liveness")  # true as long as the server answers
READY = "readiness"

Options = Sequence[tuple[str, int]]

# Callers ping idle connections to notice a vanished peer; by default the server would answer that with a GOAWAY.
KEEPALIVE_OPTIONS: Options = (
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 1000),
    ("grpc.so_reuseport", 0),
)


class AsyncGrpcServer:
    """One service on an event loop. It is NOT_SERVING until `set_ready` says otherwise."""

    def __init__(
        self, name: str, add: Callable[[grpc.aio.Server], None], options: Options = (), guard: Guard = OPEN
    ) -> None:
        """`name`: the service's full name. `add` adds the servicer to the server. `guard` rejects calls."""
        self._names = ready_names(name)
        self._health = health.aio.HealthServicer()
        self._guard = guard
        self._server = loop_server([LoopMessages(), *guard.for_loop()], options)
        add(self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection((name, health.SERVICE_NAME, reflection.SERVICE_NAME), self._server)

    async def start(self, host: str, port: int) -> int:
        """Listens; returns the port. Port 0 takes any free one. Raises OSError when the port is taken."""
        for name in ALIVE:
            await self._health.set(name, health_pb2.HealthCheckResponse.SERVING)
        bound = listen(self._server, host, port, self._guard.server_credentials())
        await self._server.start()
        return bound

    async def set_ready(self, ready: bool) -> None:
        """Sets the health of the server as a whole, of the service by name, and of "readiness"."""
        for name in self._names:
            await self._health.set(name, serving_status(ready))

    async def stop(self, grace_s: float) -> None:
        """Takes no more calls, gives open ones `grace_s`, then cancels them."""
        await self._health.enter_graceful_shutdown()
        await self._server.stop(grace_s)


class ThreadedGrpcServer:
    """The same on threads, at most as many calls at once as `pool` has."""

    def __init__(
        self,
        name: str,
        add: Callable[[grpc.Server], None],
        pool: ThreadPoolExecutor,
        calls: int,
        options: Options = (),
        guard: Guard = OPEN,
    ) -> None:
        self._names = ready_names(name)
        self._health = health.HealthServicer()
        self._guard = guard
        # A call too many is rejected, not left waiting.
        self._server = grpc.server(
            pool, options=options, maximum_concurrent_rpcs=calls, interceptors=[ThreadMessages(), *guard.for_threads()]
        )
        add(self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection((name, health.SERVICE_NAME, reflection.SERVICE_NAME), self._server)

    def start(self, host: str, port: int) -> int:
        """Listens; returns the port. Port 0 takes any free one. Raises OSError when the port is taken."""
        self.set_ready(False)
        for name in ALIVE:
            self._health.set(name, health_pb2.HealthCheckResponse.SERVING)
        bound = listen(self._server, host, port, self._guard.server_credentials())
        self._server.start()
        return bound

    def set_ready(self, ready: bool) -> None:
        for name in self._names:
            self._health.set(name, serving_status(ready))

    def stop(self, grace_s: float) -> None:
        """Takes no more calls, gives open ones `grace_s`, then cancels them."""
        self._server.stop(grace_s).wait()


def ready_names(service: str) -> tuple[str, ...]:
    """The health names that follow readiness."""
    return "", service, READY


def serving_status(ready: bool) -> Any:
    return health_pb2.HealthCheckResponse.SERVING if ready else health_pb2.HealthCheckResponse.NOT_SERVING


def listen(
    server: grpc.aio.Server | grpc.Server, host: str, port: int, credentials: grpc.ServerCredentials | None
) -> int:
    """Binds a port; an insecure one without credentials. Raises OSError when it is taken."""
    try:
        if credentials is not None:
            return server.add_secure_port(authority(host, port), credentials)
        return server.add_insecure_port(authority(host, port))
    except RuntimeError as error:
        raise OSError(f"cannot listen on {authority(host, port)}: {error}") from None


async def abort(context: grpc.aio.ServicerContext[Any, Any], code: grpc.StatusCode, error: Exception | str) -> NoReturn:
    """Ends a call on an event loop with a status."""
    await context.abort(code, str(error))
    raise AssertionError("abort raises")


def abort_call(context: grpc.ServicerContext, code: grpc.StatusCode, error: Exception | str) -> NoReturn:
    """Ends a call on a thread with a status."""
    context.abort(code, str(error))
    raise AssertionError("abort raises")
