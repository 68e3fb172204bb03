"""Decides whom to ask again for experts whose answer is missing. Pure: no clock, no I/O.

Every decision keeps the bits: an expert's reply is a function of the row and the weights, on whichever worker.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass

from services.router.dispatch.errors import CallDamaged, DispatchError, NotLoaded, StaleEpoch

MOST_RESENDS = 3  # of a layer's call to one worker, before a pause
FIRST_PAUSE_S, LAST_PAUSE_S = 0.02, 0.5


@dataclass(frozen=True, slots=True)
class PeerFailure:
    """One worker's last failure within one layer call, and how often the call was damaged on its way so far."""

    epoch: int  # of the table under which the worker failed
    error: DispatchError
    damages: int

    @property
    def needs_epoch(self) -> int:
        """The least epoch under which the worker may be asked again, or 0 when a newer table would change nothing."""
        return max(self.error.epoch, self.epoch + 1) if isinstance(self.error, StaleEpoch | NotLoaded) else 0

    @property
    def resends(self) -> bool:
        """Whether the call is simply sent again: it was damaged on its way, and not too often."""
        return isinstance(self.error, CallDamaged) and self.damages < MOST_RESENDS


def record_failure(before: PeerFailure | None, epoch: int, error: DispatchError) -> PeerFailure:
    """Returns the state of a worker after one more failure."""
    return PeerFailure(epoch, error, (before.damages if before else 0) + isinstance(error, CallDamaged))


@dataclass(frozen=True, slots=True)
class RetryChoice:
    """How to go on: which workers not to ask, and how long to pause first (a newer table ends the pause)."""

    banned: frozenset[int]
    pause_s: float = 0.0


def choose_retry(
    failures: Mapping[int, PeerFailure], epoch: int, replicas: list[list[int]], missing: Set[int], attempt: int
) -> RetryChoice:
    """Decides whom to ask for the missing experts under the table of `epoch`; workers are indices into that table.

    Replicas on workers that have not failed are asked at once. When no missing expert has one, its other replicas are
    asked: at once where a call was damaged on its way, else after a pause that doubles with each attempt. A worker that
    named an epoch is asked only under such a table.
    """
    outdated = frozenset(worker for worker, failure in failures.items() if failure.needs_epoch > epoch)
    failed = outdated | {worker for worker, failure in failures.items() if not failure.needs_epoch}
    holders = {worker for expert in missing for worker in replicas[expert]}
    if holders - failed:
        return RetryChoice(failed)
    if any(failures[worker].resends for worker in holders - outdated):
        return RetryChoice(outdated)
    return RetryChoice(outdated, min(LAST_PAUSE_S, FIRST_PAUSE_S * 2 ** min(attempt, 10)))
