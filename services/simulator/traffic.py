"""What clients send: lengths from public statistics or from a record, arrivals at a rate that changes, callers.

Deterministic by its seed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from services.simulator.generation import Generation

BATCH = 4096  # requests that are drawn at once


@dataclass(frozen=True, slots=True, kw_only=True)
class Lengths:
    """Log-normal numbers of tokens by mean and median, cut at `most`."""

    mean: float
    median: float
    most: int

    def draw(self, rng: np.random.Generator, count: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        sigma = math.sqrt(2 * math.log(self.mean / self.median))
        drawn = np.exp(rng.normal(math.log(self.median), sigma, count))
        found: np.ndarray[tuple[int], np.dtype[np.int64]] = np.clip(np.rint(drawn), 1, self.most).astype(np.int64)
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A kind of request. `source`: where its statistics are published."""

    prompt: Lengths
    answer: Lengths
    source: str


# Means and medians as they are reported; the traces are not here to check them. The form between them is assumed to be
# log-normal.
AZURE = "Splitwise, arXiv 2311.18677: Azure's traces of 2023-11"
KINDS = {
    "conversation": Kind(
        prompt=Lengths(mean=1155, median=1020, most=14050),
        answer=Lengths(mean=211, median=129, most=1000),
        source=AZURE,
    ),
    "code": Kind(
        prompt=Lengths(mean=2048, median=1500, most=7437), answer=Lengths(mean=28, median=13, most=1899), source=AZURE
    ),
}


@dataclass(frozen=True, slots=True)
class Phase:
    """From `start` on there are `rate` requests a second."""

    start: float
    rate: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrivals:
    """A Poisson process; `phases` begin one after another, the first at 0. `callers` share the requests evenly."""

    phases: Sequence[Phase]
    seconds: float
    kind: Kind
    callers: int = 100_000

    def generate(self, seed: int) -> Iterator[Generation]:
        rng = np.random.default_rng([seed, 2])
        number = 0
        ends = [phase.start for phase in self.phases[1:]] + [self.seconds]
        for phase, end in zip(self.phases, ends, strict=True):
            now = phase.start
            while phase.rate > 0 and now < end:
                gaps = rng.exponential(1 / phase.rate, BATCH).tolist()
                prompts = self.kind.prompt.draw(rng, BATCH).tolist()
                answers = self.kind.answer.draw(rng, BATCH).tolist()
                callers = rng.integers(self.callers, size=BATCH).tolist()
                for gap, prompt, answer, caller in zip(gaps, prompts, answers, callers, strict=True):
                    now += gap
                    if now >= end:
                        break
                    yield Generation(number, now, prompt, answer, f"caller-{caller}")
                    number += 1


@dataclass(frozen=True, slots=True)
class Replay:
    """Requests as they were recorded: seconds, tokens of prompt and answer, and who asked."""

    requests: Sequence[tuple[float, int, int, str]]

    def generate(self, seed: int) -> Iterator[Generation]:
        """The seed changes nothing: what came is known."""
        del seed
        for number, (at, prompt, answer, caller) in enumerate(sorted(self.requests)):
            yield Generation(number, at, prompt, answer, caller)
