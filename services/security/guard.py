"""The door of a process's gRPC server: TLS, and interceptors that reject calls which no member of the cluster has made.

With TLS whoever connects needs a certificate, and each call one of a role that may make it; with a cluster key each
call is signed as well. Of our own services; health and reflection stay open to whoever has connected.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import aclosing
from typing import Any

import grpc
import grpc.aio
import structlog
from prometheus_client import CollectorRegistry, Counter

from services.security.calls import CALLERS, OTHER_RUN, CallVerifier
from services.security.cluster_key import NO_KEY, ClusterKey
from services.security.connections import Connections
from services.security.peers import peer_fault
from services.security.sealed_calls import DAMAGED_MESSAGES
from services.security.tls import NO_TLS, Tls

log = structlog.get_logger(__name__)

LOG_S = 10.0  # between two log lines about rejected calls

Fault = tuple[grpc.StatusCode, str]
Behaviour = Callable[[Any, Any], Any]

# By whether requests and replies are streams: what makes a handler, and which of its attributes has the behaviour.
KINDS: dict[tuple[bool, bool], tuple[Callable[..., Any], str]] = {
    (False, False): (grpc.unary_unary_rpc_method_handler, "unary_unary"),
    (False, True): (grpc.unary_stream_rpc_method_handler, "unary_stream"),
    (True, False): (grpc.stream_unary_rpc_method_handler, "stream_unary"),
    (True, True): (grpc.stream_stream_rpc_method_handler, "stream_stream"),
}


class Guard:
    """The door of one process. Any thread may use it."""

    def __init__(self, key: ClusterKey = NO_KEY, boot_id: str = "", tls: Tls = NO_TLS) -> None:
        """`boot_id`: this run, for which calls have to be signed."""
        self.active = key.given or tls.given
        self.tls, self._connections = tls, Connections()
        self._verifier = CallVerifier(key, boot_id) if key.given else None
        self._rejected = Counter(
            "caracal_unauthenticated_calls",
            "Calls rejected because no member of the cluster, or none of the right role, has made them",
            ["method"],
            registry=None,
        )
        self._lock = threading.Lock()
        self._quiet_until, self._unlogged = 0.0, 0

    def show(self, registry: CollectorRegistry) -> None:
        """Adds the counters of rejected calls, damaged messages and connections, and the certificate's end."""
        registry.register(self._rejected)
        registry.register(DAMAGED_MESSAGES)
        self._connections.show(registry)
        self.tls.show(registry)

    def server_credentials(self) -> grpc.ServerCredentials | None:
        """What the server listens with; None without TLS."""
        return self.tls.server(self._connections.opened) if self.tls.given else None

    def call_fault(self, details: grpc.HandlerCallDetails) -> Fault | None:
        """The status with which a call is rejected by its signature; None when it is not."""
        why = self._verifier.fault(details.method, details.invocation_metadata or ()) if self._verifier else ""
        return self._rejection(details.method, why) if why else None

    def peer_fault(self, method: str, context: Any) -> Fault | None:
        """The status with which a call is rejected by the certificate of its peer; None when it is not."""
        self._connections.used(context.peer())
        why = peer_fault(method, context.auth_context(), self.tls.cluster)
        return self._rejection(method, why) if why else None

    def _rejection(self, method: str, why: str) -> Fault:
        if why == OTHER_RUN:  # signed well by a caller that does not know yet that this worker has restarted
            return grpc.StatusCode.UNAVAILABLE, why
        self._rejected.labels(method if method in CALLERS else "other").inc()
        with self._lock:
            self._unlogged += 1
            now = time.monotonic()
            calls, due = self._unlogged, now >= self._quiet_until
            if due:
                self._quiet_until, self._unlogged = now + LOG_S, 0
        if due:
            log.warning("unauthenticated calls are rejected", reason=why, method=method[:80], calls=calls)
        return grpc.StatusCode.UNAUTHENTICATED, why

    def for_loop(self) -> list[grpc.aio.ServerInterceptor]:
        """The interceptors of a server on an event loop."""
        return [_LoopInterceptor(self)] if self.active else []

    def for_threads(self) -> list[grpc.ServerInterceptor]:
        """The interceptors of a server on threads."""
        return [_ThreadInterceptor(self)] if self.active else []


OPEN = Guard()


class _LoopInterceptor(grpc.aio.ServerInterceptor):
    def __init__(self, guard: Guard) -> None:
        self._guard = guard

    async def intercept_service(
        self, continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]], details: grpc.HandlerCallDetails
    ) -> Any:
        fault = self._guard.call_fault(details)
        if fault is None:
            handler = await continuation(details)
            return _behind(handler, self._checking(details.method)) if self._guard.tls.given else handler

        async def reject(_: Any, context: grpc.aio.ServicerContext[Any, Any]) -> None:
            await _reject(context, fault)

        return grpc.stream_stream_rpc_method_handler(reject)

    def _checking(self, method: str) -> Callable[[Behaviour], Behaviour]:
        def checking(inner: Behaviour) -> Behaviour:
            async def behave(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
                if fault := self._guard.peer_fault(method, context):
                    await _reject(context, fault)
                result = inner(request, context)
                if not hasattr(result, "__aiter__"):
                    return await result
                # As gRPC itself sends what a generator yields, without one more generator in between.
                async with aclosing(result) as replies:
                    async for reply in replies:
                        await context.write(reply)
                    return None

            return behave

        return checking


class _ThreadInterceptor(grpc.ServerInterceptor):
    def __init__(self, guard: Guard) -> None:
        self._guard = guard

    def intercept_service(self, continuation: Callable[[Any], Any], details: grpc.HandlerCallDetails) -> Any:
        fault = self._guard.call_fault(details)
        if fault is None:
            handler = continuation(details)
            return _behind(handler, self._checking(details.method)) if self._guard.tls.given else handler

        # One that takes a stream reads nothing before it rejects, whatever kind of call it is.
        def reject(_: Any, context: grpc.ServicerContext) -> Iterator[Any]:
            context.abort(*fault)
            yield

        return grpc.stream_stream_rpc_method_handler(reject)

    def _checking(self, method: str) -> Callable[[Behaviour], Behaviour]:
        def checking(inner: Behaviour) -> Behaviour:
            def behave(request: Any, context: grpc.ServicerContext) -> Any:
                if fault := self._guard.peer_fault(method, context):
                    context.abort(*fault)
                return inner(request, context)

            return behave

        return checking


async def _reject(context: grpc.aio.ServicerContext[Any, Any], fault: Fault) -> None:
    # A call that ends before its client has got anything ends as INTERNAL there, whatever status it has.
    await context.send_initial_metadata(())
    await context.abort(*fault)


def _behind(handler: Any, checking: Callable[[Behaviour], Behaviour]) -> Any:
    """The same handler, whose behaviour first looks at the peer: only then is the connection known."""
    if handler is None:
        return None
    make, attribute = KINDS[handler.request_streaming, handler.response_streaming]
    behaviour = checking(getattr(handler, attribute))
    return make(behaviour, handler.request_deserializer, handler.response_serializer)
