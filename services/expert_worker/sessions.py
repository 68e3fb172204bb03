"""Limits how many sessions are open, so that other calls always find a thread.

A session that has made no call for IDLE_S since it was opened may be cancelled in favour of a new one: nobody waits
for it, and its caller, if still there, opens another. A session that has made a call is never cancelled here.
"""

from __future__ import annotations

import threading
import time

import grpc

IDLE_S = 5.0  # after that a session without a call may be cancelled


class Sessions:
    """The open sessions. Any thread may use it."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._open: set[grpc.ServicerContext] = set()
        self._idle: dict[grpc.ServicerContext, float] = {}  # since when, oldest first
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._open)

    def enter(self, session: grpc.ServicerContext) -> bool:
        """Adds a session, which must later `leave`; false when the limit is reached and none may be cancelled."""
        now, idle = time.monotonic(), None
        with self._lock:
            if len(self._open) >= self._limit:
                idle = next((one for one, since in self._idle.items() if now - since > IDLE_S), None)
                if idle is None:
                    return False
                self._remove(idle)
            self._open.add(session)
            self._idle[session] = now
        if idle is not None:
            idle.cancel()
        return True

    def first_call_seen(self, session: grpc.ServicerContext) -> None:
        """Notes that the session has made its first call."""
        with self._lock:
            self._idle.pop(session, None)

    def cancel_all(self) -> None:
        """Ends every session: its calls fail, and their callers ask elsewhere."""
        with self._lock:
            sessions = list(self._open)
        for one in sessions:
            one.cancel()

    def leave(self, session: grpc.ServicerContext) -> None:
        with self._lock:
            self._remove(session)

    def _remove(self, session: grpc.ServicerContext) -> None:
        self._open.discard(session)
        self._idle.pop(session, None)
