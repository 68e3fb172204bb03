"""Rejects calls that no member of the cluster has made: interceptors of a process's gRPC server, a counter, a log line.

Health and reflection stay open; without a cluster key everything does.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import grpc
import grpc.aio
import structlog
from prometheus_client import CollectorRegistry, Counter

from services.security.calls import CALLERS, OTHER_RUN, CallVerifier
from services.security.cluster_key import NO_KEY, ClusterKey

log = structlog.get_logger(__name__)

LOG_S = 10.0  # between two log lines about rejected calls


class Guard:
    """The door of one process. Any thread may use it."""

    def __init__(self, key: ClusterKey = NO_KEY, boot_id: str = "") -> None:
        """`boot_id`: this run, for which calls have to be signed."""
        self.active = key.given
        self._verifier = CallVerifier(key, boot_id)
        self._rejected = Counter(
            "caracal_unauthenticated_calls",
            "Calls rejected because no member of the cluster, or none of the right role, has signed them",
            ["method"],
            registry=None,
        )
        self._lock = threading.Lock()
        self._quiet_until, self._unlogged = 0.0, 0

    def show(self, registry: CollectorRegistry) -> None:
        """Adds the counter of rejected calls to the registry."""
        registry.register(self._rejected)

    def fault(self, details: grpc.HandlerCallDetails) -> tuple[grpc.StatusCode, str] | None:
        """The status with which a call is rejected; None when it is not."""
        why = self._verifier.fault(details.method, details.invocation_metadata or ())
        if not why:
            return None
        if why == OTHER_RUN:  # signed well by a caller that does not know yet that this worker has restarted
            return grpc.StatusCode.UNAVAILABLE, why
        self._rejected.labels(details.method if details.method in CALLERS else "other").inc()
        with self._lock:
            self._unlogged += 1
            now = time.monotonic()
            calls, due = self._unlogged, now >= self._quiet_until
            if due:
                self._quiet_until, self._unlogged = now + LOG_S, 0
        if due:
            log.warning("unauthenticated calls are rejected", reason=why, method=details.method[:80], calls=calls)
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
        fault = self._guard.fault(details)
        if fault is None:
            return await continuation(details)

        async def reject(_: Any, context: grpc.aio.ServicerContext[Any, Any]) -> None:
            # A call that ends before its client has got anything ends as INTERNAL there, whatever status it has.
            await context.send_initial_metadata(())
            await context.abort(*fault)

        return grpc.stream_stream_rpc_method_handler(reject)


class _ThreadInterceptor(grpc.ServerInterceptor):
    def __init__(self, guard: Guard) -> None:
        self._guard = guard

    def intercept_service(self, continuation: Callable[[Any], Any], details: grpc.HandlerCallDetails) -> Any:
        fault = self._guard.fault(details)
        if fault is None:
            return continuation(details)

        # One that takes a stream reads nothing before it rejects, whatever kind of call it is.
        def reject(_: Any, context: grpc.ServicerContext) -> Iterator[Any]:
            context.abort(*fault)
            yield

        return grpc.stream_stream_rpc_method_handler(reject)
