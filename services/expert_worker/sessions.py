"""Open sessions, up to a limit, so that other calls always find a thread.

A session that has been silent from its start gives its place to a new one: nobody waits for it, and its caller, if it
lives, opens another. One that has made a call keeps its place.
"""

from __future__ import annotations

import threading
import time

import grpc

IDLE_S = 5.0  # after that a session without a call may have to go


class Sessions:
    """Any thread may use it."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._open: set[grpc.ServicerContext] = set()
        self._idle: dict[grpc.ServicerContext, float] = {}  # since when, oldest first
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._open)

    def enter(self, session: grpc.ServicerContext) -> bool:
        """Whether there is room for it; each that has entered must leave."""
        now, gone = time.monotonic(), None
        with self._lock:
            if len(self._open) >= self._limit:
                gone = next((one for one, since in self._idle.items() if now - since > IDLE_S), None)
                if gone is None:
                    return False
                self._forget(gone)
            self._open.add(session)
            self._idle[session] = now
        if gone is not None:
            gone.cancel()
        return True

    def first_call_seen(self, session: grpc.ServicerContext) -> None:
        """It has made its first call."""
        with self._lock:
            self._idle.pop(session, None)

    def leave(self, session: grpc.ServicerContext) -> None:
        with self._lock:
            self._forget(session)

    def _forget(self, session: grpc.ServicerContext) -> None:
        self._open.discard(session)
        self._idle.pop(session, None)
