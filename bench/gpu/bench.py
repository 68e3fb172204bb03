"""What every section is given, and what it gives back."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from triton.errors import TritonError

from bench.gpu.sizes import Sizes
from bench.gpu.timing import Call, Clock

CHUNK_ROWS = 4096  # that are compared at a time: in fp64 the largest answers are 13 GB
GIVES_UP = (RuntimeError, ImportError, ValueError, TypeError, AttributeError, TritonError)


@dataclass
class Ceilings:
    """What the card can do, measured: bytes per second, and operations per second of each kind of product."""

    bandwidth: float = math.nan
    rates: dict[str, float] = field(default_factory=dict)

    def binding(self, moved: int, flops: int, kind: str) -> tuple[str, float]:
        """(which ceiling binds, the seconds below which nothing can be)."""
        bytes_s, flops_s = moved / self.bandwidth, flops / self.rates.get(kind, math.nan)
        return (f"{kind} rate", flops_s) if flops_s > bytes_s else ("bandwidth", bytes_s)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table. Seconds are NaN in a dry run."""

    section: str
    case: str
    seconds: float
    bytes: int  # that must move: each input read once, each output written once
    flops: int
    bound: str = ""  # which ceiling binds
    floor_s: float = math.nan  # what that ceiling alone would take
    goal: float | None = None  # of the share
    rival: str = ""  # the best alternative, or why there is none
    rival_s: float = math.nan
    error: float | None = None  # ||out - fp64|| / ||fp64|| over a sample
    note: str = ""
    parts: dict[str, float] = field(default_factory=dict)  # seconds of what the time is made of

    @property
    def share(self) -> float:
        """Of the ceiling that binds."""
        return self.floor_s / self.seconds


@dataclass(frozen=True)
class Left:
    """A case without a row, and why: no time left, or what it raised."""

    section: str
    case: str
    reason: str
    failed: bool = False


@dataclass(frozen=True)
class Case:
    """`run` may raise: the case is then reported as failed and the others go on."""

    name: str
    run: Callable[[], Sequence[Row | Left]]


@dataclass
class Bench:
    """The device, the sizes, the clock, and the ceilings as far as they are measured."""

    device: torch.device
    sizes: Sizes
    clock: Clock
    dry: bool = False
    deadline_s: float = math.inf  # of the section that runs, time.monotonic
    ceilings: Ceilings = field(default_factory=Ceilings)


@dataclass(frozen=True)
class Rival:
    """Another way to the same answer. `calls` rotate through the same inputs as ours.

    `answer` gives what ours is compared with; None where the rival does less than ours.
    """

    name: str
    calls: Sequence[Call]
    answer: Callable[[], Tensor] | None = None


class Disagrees(ValueError):
    """A rival whose answer is not ours."""


def distance(given: Tensor, exact: Tensor) -> float:
    """||given - exact|| / ||exact|| in fp64; infinite where something is not finite, so unwritten outputs show."""
    error, size = 0.0, 0.0
    for given_R, exact_R in zip(torch.split(given, CHUNK_ROWS), torch.split(exact, CHUNK_ROWS), strict=True):
        error += (given_R.double() - exact_R.double()).square().sum().item()
        size += exact_R.double().square().sum().item()
    found = math.sqrt(error / size) if size else math.nan
    return found if math.isfinite(found) else math.inf


def require_close(given: Tensor, exact: Tensor, limit: float) -> float:
    """The distance. Raises Disagrees when it is above `limit`."""
    found = distance(given, exact)
    if found > limit:
        raise Disagrees(f"relative error {found:.2g}, at most {limit:.2g} is right")
    return found


def fastest(clock: Clock, rivals: Sequence[Rival], ours: Tensor, limit: float = 0.03) -> tuple[str, float]:
    """(name, seconds) of the fastest rival that runs and agrees; else why each of them does not, and NaN."""
    found: list[tuple[float, str]] = []
    reasons = []
    for rival in rivals:
        try:
            if rival.answer is not None:
                require_close(rival.answer(), ours, limit)
            found.append((clock.seconds(rival.calls), rival.name))
        except GIVES_UP as error:
            reasons.append(f"{rival.name}: {first_line(error)}")
    if not found:
        return "none: " + ("; ".join(reasons) or "nothing on this machine does it"), math.nan
    seconds, name = min(found)
    return name, seconds


def milliseconds(seconds: float) -> str:
    return f"{1e3 * seconds:.4g} ms"


def first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), "")[:160] or type(error).__name__


def poisoned(call: Callable[[], Tensor]) -> Tensor:
    """The call's answer, its fresh memory full of NaN before: what is left unwritten cannot pass for a result."""
    torch.use_deterministic_algorithms(True)
    try:
        return call()
    finally:
        torch.use_deterministic_algorithms(False)
