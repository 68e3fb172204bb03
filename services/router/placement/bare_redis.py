"""How long this router has had the leader's lease in a bare Redis: a new one, or one that has lost what it had. Pure.

Who has what it has lost says so with its next lease. So nobody begins a term there until all leases have been renewed:
by what a router sees before, it would begin where another leader has been.
"""

from __future__ import annotations

from services.membership.pulse import Pulse
from services.membership.redis import RENEW_S

WAIT_S = RENEW_S + 0.5  # in which each worker that reaches Redis renews its lease there


class BareRedis:
    """One router's view; `now` is any clock that advances."""

    def __init__(self) -> None:
        self._since: float | None = None  # it has been bare, with the lease for this router

    @property
    def bare(self) -> bool:
        """Whether it was bare at the last look, with the leader's lease for this router."""
        return self._since is not None

    def saw(self, pulse: Pulse, now: float) -> None:
        """Takes what it has. Who takes the lease anew begins to wait anew: it may have been lost with all else."""
        if not (pulse.bare and pulse.leads):
            self._since = None
        elif self._since is None or pulse.taken:
            self._since = now

    def unavailable(self) -> None:
        """It cannot be read or written: workers may renew no lease meanwhile, so that all of it begins anew."""
        self._since = None

    def wait_left(self, now: float) -> float:
        """Seconds until a term may begin; 0 when it may."""
        return max(0.0, self._since + WAIT_S - now) if self._since is not None else 0.0
