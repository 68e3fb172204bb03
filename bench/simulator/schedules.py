"""The schedules that a real cluster and a simulated one both get: the same requests at the same times."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from services.simulator.generation import Generation
from services.simulator.traffic import Arrivals, Kind, Lengths, Phase

LENGTHS = Kind(
    prompt=Lengths(mean=48, median=40, most=128), answer=Lengths(mean=48, median=40, most=128), source="assumed"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """`dies`: a worker of which role is killed at `dies_at`; empty = none is. `attention`: so many workers of it."""

    name: str
    phases: tuple[Phase, ...]
    seconds: float
    dies: Literal["expert", "attention", ""] = ""
    dies_at: float = 0.0
    attention: int = 1

    def requests(self, seed: int) -> list[Generation]:
        arrivals = Arrivals(phases=self.phases, seconds=self.seconds, kind=LENGTHS, callers=1)
        return list(arrivals.generate(seed))


def schedules(rate: float, seconds: float) -> tuple[Schedule, ...]:
    """Steady, a flash crowd of thrice the rate for a fifth of the time, the death of an expert worker, and that of one
    of two attention workers, between which requests are shared before it and go over at it: its rate is half as high
    again, so that the one that dies has some."""
    crowd = Phase(0.4 * seconds, 3 * rate), Phase(0.6 * seconds, rate)
    return (
        Schedule(name="steady", phases=(Phase(0.0, rate),), seconds=seconds),
        Schedule(name="flash crowd", phases=(Phase(0.0, rate), *crowd), seconds=seconds),
        Schedule(
            name="expert death", phases=(Phase(0.0, rate),), seconds=seconds, dies="expert", dies_at=0.5 * seconds
        ),
        Schedule(
            name="attention death",
            phases=(Phase(0.0, 1.5 * rate),),
            seconds=seconds,
            dies="attention",
            dies_at=0.5 * seconds,
            attention=2,
        ),
    )
