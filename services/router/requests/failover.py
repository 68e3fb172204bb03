"""What a failed attempt says: of its worker, of its request, and of how to go on. Pure: no clock, no I/O."""

from __future__ import annotations

from dataclasses import dataclass

import grpc

from services.router.requests.attempt import AttemptFailed
from services.router.requests.progress import GenerationProgress, retry_pause_s
from services.security.calls import OTHER_RUN

DRAINING = "draining"  # a worker's error message when it hands its sequences back
STANDS_STILL = "the engine stands still"  # when it does, and nobody knows why
NOT_BEGUN = "the engine stands still, nothing has begun"  # of an attempt that has not come to the engine
BUSY = "busy: "  # how it begins where a worker has as many sequences as it takes now
DAMAGED = grpc.StatusCode.DATA_LOSS  # a message, on its way
FAILED_STEP = {grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN}  # the worker itself says that it failed on it


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovery:
    """How to go on. `avoid`: the worker is chosen again only where there is no other. `full`: it never has room for
    such a sequence. `first`: no attempt since the last new token has failed before. `keeps_pages`: the worker may be
    asked for what it has computed. `death`: it seems to have died or failed under the attempt; `by_link`: only the
    connection says so, which a link that was reset does as well. `quarantined`: so many deaths came in a row."""

    avoid: bool
    full: bool
    first: bool
    keeps_pages: bool
    death: bool
    by_link: bool
    quarantined: bool
    pause_s: float


def recover(progress: GenerationProgress, failed: AttemptFailed | None, implicated: bool = False) -> Recovery:
    """Counts an attempt that ended before its answer did; None where nobody says why. `implicated`: see Attempt."""
    code = failed.code if failed else None
    full = failed is not None and code is grpc.StatusCode.RESOURCE_EXHAUSTED and not failed.details.startswith(BUSY)
    fruitless = progress.attempt_failed()
    death = failed is not None and not full and is_a_death(failed)
    return Recovery(
        avoid=code is not DAMAGED,  # then it is not the worker's fault, and it has what was computed
        full=full,
        first=fruitless == 1,
        keeps_pages=failed is not None and keeps_pages(failed),
        death=death,
        by_link=failed is not None and failed.lost and code not in FAILED_STEP,
        quarantined=death and progress.worker_died(implicated),
        pause_s=retry_pause_s(fruitless),
    )


def keeps_pages(failed: AttemptFailed) -> bool:
    """Whether the worker may be asked for what it has computed: it is there, and says that it was not at fault."""
    stands_still = failed.details in (STANDS_STILL, NOT_BEGUN)
    return failed.code is grpc.StatusCode.UNAVAILABLE and not failed.lost and not stands_still


def is_a_death(failed: AttemptFailed) -> bool:
    """Whether the worker died, hangs, or failed in a step with this request, so that the request may be the reason.

    A worker that hands sequences back, is new at its address, has too many, waits for experts or is slow says nothing
    about the request, nor does a damaged message, nor one that stood still before it began the attempt.
    """
    if failed.details == STANDS_STILL:
        return True
    if failed.code is DAMAGED:
        return False
    return failed.code in FAILED_STEP or (failed.lost and failed.details not in (DRAINING, OTHER_RUN))
