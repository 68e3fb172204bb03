"""Measures one kind of fault: rounds that each have a time without the fault and a time with it."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.checkpoints import console
from bench.stalls.beds import Bed
from bench.stalls.callers import Callers, Expected, Load
from bench.stalls.faults import Fault, NotInjected
from bench.stalls.kinds import FOUND_S, LATE_S, Kind

OVER_S = 300.0  # that a kind may take beyond its time: the round that it is in


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """Rounds of a kind, the seconds within which they begin, the seconds that a fault lasts, and the tokens that each
    stream has before a fault and after it."""

    rounds: int = 8
    begin_s: float = 240.0
    window_s: float = 6.0
    around: int = 50


@dataclass(slots=True)
class Arm:
    """What the rounds with a fault have found, or those without. Seconds."""

    stalls: list[float] = field(default_factory=list)  # the longest of each stream in each round
    first_tokens: list[float] = field(default_factory=list)  # that requests begun meanwhile have waited for
    later: list[float] = field(default_factory=list)  # all times between two tokens, once FOUND_S are over
    late_until: list[float] = field(default_factory=list)  # by round: when the last long time between two tokens ended
    serves_again: list[float] = field(default_factory=list)  # by round, where processes have died for good


@dataclass(slots=True)
class Found:
    """What all rounds of a kind have found."""

    control: Arm = field(default_factory=Arm)
    fault: Arm = field(default_factory=Arm)
    rounds: int = 0
    lost: int = 0
    changed: int = 0
    errors: list[str] = field(default_factory=list)


async def measure(kind: Kind, model: Path, load: Load, sizes: Sizes, name: str) -> Found:
    """Raises NotInjected, and TimeoutError when a round takes far too long."""
    found, expected = Found(), Expected(load.callers)
    began = time.monotonic()
    async with asyncio.timeout(sizes.begin_s + OVER_S), kind.open(model) as bed:
        while found.rounds < sizes.rounds and (not found.rounds or time.monotonic() < began + sizes.begin_s):
            console.print(f"{name}: round {found.rounds + 1} of {sizes.rounds}")
            for arm in (found.control, found.fault):
                await bed.whole()
                await _one(kind, bed, load, sizes, found, arm, expected)
            found.rounds += 1
    return found


async def _one(kind: Kind, bed: Bed, load: Load, sizes: Sizes, found: Found, arm: Arm, expected: Expected) -> None:
    """One time under streams, with the fault if the arm is that."""
    target = await bed.target(found.rounds)
    async with Callers(target, load) as callers:
        await callers.more(sizes.around)
        fault = await bed.fault(found.rounds) if arm is found.fault else None
        since = time.perf_counter()
        if fault is None:
            await asyncio.sleep(sizes.window_s)
        else:
            await _while_it_lasts(kind, bed, fault, sizes, arm)
        until = time.perf_counter()
        await callers.more(sizes.around)
    found.lost += callers.lost
    found.errors += callers.errors
    found.changed += expected.changed(callers.answers)
    stalls = callers.longest_gaps(since, until)
    if not stalls:
        raise NotInjected("no stream had two tokens")
    arm.stalls += stalls
    arm.later += [later - earlier for earlier, later in callers.gaps(since + FOUND_S, until)]
    arm.first_tokens += callers.first_tokens(since, until)
    ends = [later - since for earlier, later in callers.gaps(since, until) if later - earlier > LATE_S / 2]
    arm.late_until.append(max(ends, default=0.0))


async def _while_it_lasts(kind: Kind, bed: Bed, fault: Fault, sizes: Sizes, arm: Arm) -> None:
    try:
        await asyncio.to_thread(fault.inject)
        if kind.restarts:
            arm.serves_again.append(await bed.served_again())
            await asyncio.sleep(1)
        else:
            await asyncio.sleep(sizes.window_s)
        await asyncio.to_thread(fault.check)
    finally:
        await asyncio.to_thread(fault.heal)


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest value that so large a share of them does not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]
