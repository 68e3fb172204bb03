"""How long Redis has had no leader's term: it is new, or has lost what it had. Pure: no clock, no I/O.

Who has what it has lost then says so with its next lease. So nobody begins a term until all leases have been renewed
there: by what a router sees before, it would begin where another leader has been.
"""

from __future__ import annotations

from services.membership.redis import RENEW_S

SETTLE_S = RENEW_S + 0.5  # in which each worker that reaches Redis renews its lease there


class BareRedis:
    """One router's view; `now` is any clock that advances."""

    def __init__(self) -> None:
        self._since: float | None = None  # it has had no term

    @property
    def bare(self) -> bool:
        """Whether it had no term at the last look."""
        return self._since is not None

    def saw(self, term: int, now: float) -> None:
        """Takes the term that it has; 0 where it has none."""
        self._since = None if term else now if self._since is None else self._since

    def unavailable(self) -> None:
        """It cannot be read or written: workers may renew no lease meanwhile, so that all of it begins anew."""
        self._since = None

    def settles_in(self, now: float) -> float:
        """Seconds until a leader may begin a term; 0 when it may."""
        return max(0.0, self._since + SETTLE_S - now) if self._since is not None else 0.0
