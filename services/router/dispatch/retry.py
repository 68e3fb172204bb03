"""What to do about a contribution that did not come home. Pure: no clock, no I/O.

Every choice keeps the bits: an expert's answer is a function of the row and the weights, whoever computes it.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass

from services.router.dispatch.links import CallRejected, DispatchError, NotLoaded, StaleEpoch

MAX_REJECTIONS = 3  # a call that one worker refuses this often is our bug, not damage on the way
FIRST_PAUSE_S, LAST_PAUSE_S = 0.02, 0.5


@dataclass(frozen=True, slots=True)
class PeerFailure:
    """What is held against one worker within one layer call."""

    epoch: int  # of the table under which it failed
    error: DispatchError
    rejections: int

    @property
    def needs_epoch(self) -> int:
        """The least epoch under which the worker may be asked again, or 0 when a newer table would change nothing."""
        return max(self.error.epoch, self.epoch + 1) if isinstance(self.error, StaleEpoch | NotLoaded) else 0

    @property
    def fatal(self) -> bool:
        """Whether asking again is pointless."""
        return self.rejections >= MAX_REJECTIONS


def record_failure(before: PeerFailure | None, epoch: int, error: DispatchError) -> PeerFailure:
    """What is held against a worker after one more failure."""
    return PeerFailure(epoch, error, (before.rejections if before else 0) + isinstance(error, CallRejected))


@dataclass(frozen=True, slots=True)
class RetryChoice:
    """How to go on: whom not to ask, and how long to pause first (a newer table ends the pause)."""

    banned: frozenset[int]
    pause_s: float = 0.0


def choose_retry(
    failures: Mapping[int, PeerFailure], epoch: int, replicas: list[list[int]], missing: Set[int], attempt: int
) -> RetryChoice:
    """Whom to ask for the missing experts under the table of `epoch`; workers are indices into that table.

    First, at once, the replicas that nobody complains of. When no missing expert has one, whoever holds it, after a
    pause that doubles with each attempt; but a worker that named an epoch only under a table that new.
    """
    never = frozenset(worker for worker, failure in failures.items() if failure.needs_epoch > epoch)
    complained = never | {worker for worker, failure in failures.items() if not failure.needs_epoch}
    if any(worker not in complained for expert in missing for worker in replicas[expert]):
        return RetryChoice(complained)
    return RetryChoice(never, min(LAST_PAUSE_S, FIRST_PAUSE_S * 2 ** min(attempt, 10)))
