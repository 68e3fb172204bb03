"""A link whose calls go over a native session: binary frames over a socket that the fan-out owns with all others.

A link starts without a session and serves at once over gRPC; a thread of its own opens the session, and from then on
the fan-out sends. When the session ends, its calls in flight fail and are sent again; the link serves over gRPC until
another session is open, which is tried after a backoff that doubles with each failure.
"""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog
from caracal_proto import placement_pb2

from services.process.thread_name import name_this_thread
from services.router.dispatch.errors import WorkerUnavailable
from services.router.dispatch.grpc_link import GrpcLink
from services.router.dispatch.links import ExpertOutput, ExpertRequest
from services.router.dispatch.native_open import HANDSHAKE_S, NotOpened, open_session
from services.router.dispatch.table import key_of

if TYPE_CHECKING:
    from services.router.dispatch.native_fanout import NativeFanout

log = structlog.get_logger(__name__)

FIRST_BACKOFF_S, LAST_BACKOFF_S = 0.25, 30.0
STEADY_S = 10.0  # a session that lasted so long resets the backoff
NONE = -1


@dataclass(slots=True)
class NativeStats:
    """Counters over all native sessions of one attention worker, since it started."""

    opened: int = 0
    failed: int = 0  # openings that failed
    broken: int = 0  # sessions that ended by themselves
    calls: int = 0  # sent over a native session
    over_grpc: int = 0  # calls of these links that went over gRPC instead


class NativeLink(GrpcLink):
    """A link over gRPC that hands its calls to the fan-out while it has a native session."""

    def __init__(
        self,
        endpoint: placement_pb2.Endpoint,
        fanout: NativeFanout,
    ) -> None:
        super().__init__(endpoint, fanout.dialer, fanout.dispatch_dtype)
        self._fanout = fanout
        self._backoff_s, self._retry_at, self._opened_s = FIRST_BACKOFF_S, 0.0, 0.0
        self._opening: threading.Thread | None = None
        self._changing, self._starting = threading.Lock(), threading.Lock()
        self.serial = NONE  # of the session; NONE while there is none
        self.max_rows = self.max_assignments = 0  # of a call over it

    def dispatch(self, request: ExpertRequest) -> Future[ExpertOutput]:
        """Sends over gRPC: for calls that the fan-out could not take."""
        self._fanout.stats.over_grpc += 1
        self.start_opening()
        return super().dispatch(request)

    def start_opening(self, at_once: bool = False) -> threading.Thread | None:
        """Starts a thread that opens a session, unless there is one or the backoff lasts; returns the thread at it."""
        with self._starting:
            if self._opening is not None and self._opening.is_alive():
                return self._opening
            if self._closed or self.serial != NONE or (time.monotonic() < self._retry_at and not at_once):
                return None
            self._opening = threading.Thread(target=self._run, name=f"native-{self._endpoint.worker_id}", daemon=True)
            self._opening.start()
            return self._opening

    def probe(self, request: ExpertRequest) -> float:
        """Makes a call over a native session of its own. Raises DispatchError."""
        try:
            opened = open_session(self._endpoint, self._dialer)
        except NotOpened as error:
            raise WorkerUnavailable(f"{self.name}: {error}") from None
        return self._fanout.probe(opened, request)

    def renew(self, since_s: float) -> None:
        with self._changing:
            serial, self.serial = (self.serial, NONE) if self._opened_s < since_s else (NONE, self.serial)
        if serial != NONE:
            self._fanout.end(serial)
        super().renew(since_s)
        if (opening := self.start_opening(at_once=True)) is not None:
            opening.join(HANDSHAKE_S)

    def lost(self, why: str) -> None:
        """Notes that the session has ended by itself."""
        self.serial = NONE
        self._fanout.stats.broken += 1
        log.info("native session ended", worker_id=self._endpoint.worker_id, reason=why)
        self._back_off(steady=time.monotonic() - self._opened_s > STEADY_S)
        self.start_opening()

    def retire_grpc(self) -> None:
        """Ends the gRPC session once its replies have come: the worker's place for it is free again."""
        session, self._session = self._session, None
        if session is not None:
            session.finish()

    def close(self) -> None:
        with self._changing:
            super().close()
            serial, self.serial = self.serial, NONE
        if serial != NONE:
            self._fanout.end(serial)

    def _run(self) -> None:
        name_this_thread("native-link")
        try:
            opened = open_session(self._endpoint, self._dialer)
        except NotOpened as error:
            self._fanout.stats.failed += 1
            log.info(
                "native session not opened, rows go over gRPC", worker_id=self._endpoint.worker_id, reason=str(error)
            )
            self._back_off(steady=False)
            return
        with self._changing:
            if self._closed:
                opened.socket.close()
                return
            self._opened_s, self._retry_at = time.monotonic(), 0.0
            self.max_rows, self.max_assignments = opened.max_rows, opened.max_assignments
            self.serial = self._fanout.add(opened, key_of(self._endpoint))
        self._fanout.stats.opened += 1
        log.info("native session opened", worker_id=self._endpoint.worker_id, over_unix=opened.over_unix)
        self._fanout.outdate_sessions()

    def _back_off(self, steady: bool) -> None:
        self._backoff_s = FIRST_BACKOFF_S if steady else min(LAST_BACKOFF_S, 2 * self._backoff_s)
        self._retry_at = time.monotonic() + self._backoff_s
