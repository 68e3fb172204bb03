"""Types shared by all sections: their input, their rows, and baselines to compare with."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from triton.errors import TritonError

from bench.gpu.sizes import Sizes
from bench.gpu.timing import Call, Clock

CHUNK_ROWS = 4096  # rows compared at a time: in fp64 the largest results are 13 GB
# What a baseline or a setting raises when it cannot run on this machine.
CANNOT_RUN = (RuntimeError, ImportError, ValueError, TypeError, AttributeError, TritonError)


@dataclass
class Ceilings:
    """Measured limits of the GPU: bytes per second, and operations per second of each kind of product."""

    bandwidth: float = math.nan
    rates: dict[str, float] = field(default_factory=dict)

    def binding(self, moved: int, flops: int, kind: str) -> tuple[str, float]:
        """Returns (the binding ceiling, the least seconds it allows)."""
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
    bound: str = ""  # the binding ceiling
    floor_s: float = math.nan  # the least seconds it allows
    goal: float | None = None  # of the share
    baseline: str = ""  # the fastest baseline, or why there is none
    baseline_s: float = math.nan
    error: float | None = None  # ||out - fp64|| / ||fp64|| over a sample
    note: str = ""
    parts: dict[str, float] = field(default_factory=dict)  # seconds of each part of the time

    @property
    def share(self) -> float:
        """The share of the binding ceiling that is reached."""
        return self.floor_s / self.seconds


@dataclass(frozen=True)
class SkippedCase:
    """A case without a row, and the reason: no time left, or the error that it raised."""

    section: str
    case: str
    reason: str
    failed: bool = False


@dataclass(frozen=True)
class Case:
    """One measurement. When `run` raises, the case is reported as failed and the others continue."""

    name: str
    run: Callable[[], Sequence[Row | SkippedCase]]


@dataclass
class Bench:
    """The device, the sizes, the clock, and the ceilings that have been measured so far."""

    device: torch.device
    sizes: Sizes
    clock: Clock
    dry: bool = False
    deadline_s: float = math.inf  # of the running section, in time.monotonic()
    ceilings: Ceilings = field(default_factory=Ceilings)


@dataclass(frozen=True)
class Baseline:
    """Another implementation of an op. `calls` rotate through the same inputs as ours.

    `answer` returns the result that ours is compared with; None where the baseline computes less than ours.
    """

    name: str
    calls: Sequence[Call]
    answer: Callable[[], Tensor] | None = None


class Mismatch(ValueError):
    """A result differs too much from the expected one."""


def distance(given: Tensor, exact: Tensor) -> float:
    """Returns ||given - exact|| / ||exact|| in fp64; infinite when an element is not finite, as unwritten ones are."""
    error, size = 0.0, 0.0
    for given_R, exact_R in zip(torch.split(given, CHUNK_ROWS), torch.split(exact, CHUNK_ROWS), strict=True):
        error += (given_R.double() - exact_R.double()).square().sum().item()
        size += exact_R.double().square().sum().item()
    found = math.sqrt(error / size) if size else math.nan
    return found if math.isfinite(found) else math.inf


def require_close(given: Tensor, exact: Tensor, limit: float) -> float:
    """Returns the distance. Raises Mismatch when it is above `limit`."""
    found = distance(given, exact)
    if found > limit:
        raise Mismatch(f"relative error {found:.2g}, above {limit:.2g}")
    return found


def fastest(clock: Clock, baselines: Sequence[Baseline], ours: Tensor, limit: float = 0.03) -> tuple[str, float]:
    """Returns (name, seconds) of the fastest baseline with the right result; if there is none, (the reasons, NaN)."""
    found: list[tuple[float, str]] = []
    reasons = []
    for baseline in baselines:
        try:
            if baseline.answer is not None:
                require_close(baseline.answer(), ours, limit)
            found.append((clock.seconds(baseline.calls), baseline.name))
        except CANNOT_RUN as error:
            reasons.append(f"{baseline.name}: {first_line(error)}")
    if not found:
        return "none: " + ("; ".join(reasons) or "no baseline on this machine"), math.nan
    seconds, name = min(found)
    return name, seconds


def milliseconds(seconds: float) -> str:
    return f"{1e3 * seconds:.4g} ms"


def first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), "")[:160] or type(error).__name__


def poisoned(call: Callable[[], Tensor]) -> Tensor:
    """Returns the call's result, with new memory filled with NaN first, so that unwritten elements are detected."""
    torch.use_deterministic_algorithms(True)
    try:
        return call()
    finally:
        torch.use_deterministic_algorithms(False)
