"""How long a connection may take: for the head of a request, for its body, and with nothing to do. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Late = Literal["idle", "head", "body", "reading"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionTimeouts:
    """Seconds of a connection. A body may also take a second for each `body_bytes_per_s` of it."""

    idle_s: float = 75.0  # before the first request, and between two
    head_s: float = 10.0  # from the first byte of a request to the end of its headers
    body_s: float = 10.0
    body_bytes_per_s: int = 1024
    unread_s: float = 10.0  # while the client reads nothing of what waits for it


class ConnectionTimes:
    """What one connection waits for. All times are of one clock, in seconds."""

    def __init__(self, now: float) -> None:
        self.quiet_since = now
        self._head_since: float | None = None
        self._body_since: float | None = None
        self._body = 0
        self._in_request = False

    @property
    def idle(self) -> bool:
        """Whether no request has come whole, and none is being answered."""
        return not self._in_request

    def received(self, now: float, size: int) -> None:
        """Bytes came: of a head that is not complete, or of a body."""
        if self._in_request:
            self._body += size
        elif self._head_since is None:
            self._head_since = now

    def no_head(self) -> None:
        """What came between two requests was no beginning of one."""
        self._head_since = None

    def requested(self, now: float) -> None:
        """A head is complete, and its body begins."""
        self._in_request, self._head_since = True, None
        self._body_since, self._body = now, 0

    def has_body(self) -> None:
        """The body is complete."""
        self._body_since = None

    def answered(self, now: float) -> None:
        self._in_request, self._body_since, self.quiet_since = False, None, now

    def late(self, now: float, timeouts: ConnectionTimeouts) -> Late | None:
        """Returns for what the connection has taken too long."""
        if self._head_since is not None:
            return "head" if now - self._head_since > timeouts.head_s else None
        if not self._in_request:
            return "idle" if now - self.quiet_since > timeouts.idle_s else None
        if self._body_since is None:
            return None
        allowed_s = timeouts.body_s + self._body / timeouts.body_bytes_per_s
        return "body" if now - self._body_since > allowed_s else None
