"""A gRPC server on an event loop that takes calls of its own methods alone.

grpc.aio (1.85) decodes the name of any other method as UTF-8 in the task in which it takes calls: one byte that is
none, from whoever reaches the port, ends that task, and the server closes its port, or the process crashes. Calls of
registered methods are matched by gRPC's core, and do not get there. Others are not taken: core cancels them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import grpc
import grpc.aio
from grpc._cython import cygrpc  # type: ignore[attr-defined]

UNTAKEN_S = 2  # after that core cancels a call that was not taken, once another comes
REFLECTION_V1 = "grpc.reflection.v1.ServerReflection"  # which tools ask for before the one that is offered


class _Registered(cygrpc.AioServer):  # type: ignore[misc]
    async def _request_call(self) -> Any:
        """Asks core for no call of a method that is not registered."""
        await asyncio.get_running_loop().create_future()


async def _unimplemented(_: Any, context: grpc.aio.ServicerContext[Any, Any]) -> None:
    await context.abort(grpc.StatusCode.UNIMPLEMENTED, "method not found")


def loop_server(
    interceptors: Sequence[grpc.aio.ServerInterceptor], options: Sequence[tuple[str, int]]
) -> grpc.aio.Server:
    """Returns a server to which servicers are to be added."""
    server = grpc.aio.server()
    given = (*options, ("grpc.server_max_unrequested_time_in_server", UNTAKEN_S))
    server._server = _Registered(cygrpc.get_working_loop(), None, (), tuple(interceptors), given, None)  # type: ignore[attr-defined]
    handler: Any = grpc.stream_stream_rpc_method_handler(_unimplemented)
    server.add_registered_method_handlers(REFLECTION_V1, {"ServerReflectionInfo": handler})
    return server
