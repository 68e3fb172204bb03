"""How long a connection may take: for the head of a request, for its body, and with nothing to do. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Late = Literal["idle", "head", "body", "reading"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionTimeouts:
    """Seconds of a connection. A body comes at least at a rate: that in a hurry is for when many bodies wait for their
    ends, and others for room. It may be behind its rate by `body_s`, and what came faster before counts for nothing."""

    idle_s: float = 75.0  # before the first request, and between two
    head_s: float = 10.0  # from the first byte of a request to the end of its headers
    body_s: float = 10.0
    body_bytes_per_s: int = 1024
    hurried_bytes_per_s: int = 64 << 10
    unread_s: float = 10.0  # while the client reads nothing of what waits for it


class _Pace:
    """How far a body is behind a rate."""

    def __init__(self, bytes_per_s: int, now: float) -> None:
        self._bytes_per_s, self._due = bytes_per_s, now

    def received(self, now: float, size: int) -> None:
        self._due = min(now, self._due + size / self._bytes_per_s)

    def behind_s(self, now: float) -> float:
        return now - self._due


class ConnectionTimes:
    """What one connection waits for. All times are of one clock, in seconds."""

    def __init__(self, now: float, timeouts: ConnectionTimeouts) -> None:
        self._timeouts = timeouts
        self.quiet_since = now
        self._head_since: float | None = None
        self._paces: tuple[_Pace, _Pace] | None = None  # of a body that is not complete: the usual one, and in a hurry
        self._in_request = False

    @property
    def idle(self) -> bool:
        """Whether no request has come whole, and none is being answered."""
        return not self._in_request

    def received(self, now: float, size: int) -> None:
        """Bytes came: of a head that is not complete, or of a body."""
        if self._in_request:
            for pace in self._paces or ():
                pace.received(now, size)
        elif self._head_since is None:
            self._head_since = now

    def no_head(self) -> None:
        """What came between two requests was no beginning of one."""
        self._head_since = None

    def requested(self, now: float) -> None:
        """A head is complete, and its body begins."""
        self._in_request, self._head_since = True, None
        self._paces = (
            _Pace(self._timeouts.body_bytes_per_s, now),
            _Pace(self._timeouts.hurried_bytes_per_s, now),
        )

    def has_body(self) -> None:
        """The body is complete."""
        self._paces = None

    def answered(self, now: float) -> None:
        self._in_request, self._paces, self.quiet_since = False, None, now

    def late(self, now: float, *, hurried: bool = False) -> Late | None:
        """Returns for what the connection has taken too long. `hurried`: bodies have to come fast now."""
        timeouts = self._timeouts
        if self._head_since is not None:
            return "head" if now - self._head_since > timeouts.head_s else None
        if not self._in_request:
            return "idle" if now - self.quiet_since > timeouts.idle_s else None
        if self._paces is None:
            return None
        return "body" if self._paces[hurried].behind_s(now) > timeouts.body_s else None
