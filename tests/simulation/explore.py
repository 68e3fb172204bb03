"""Plays many seeded schedules on all cores, and says what came of them."""

from __future__ import annotations

import gc
import json
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from simulation.checks import Violation
from simulation.mutations import NONE, Mutation
from simulation.schedule import schedule
from simulation.world import play
from support.code_version import code_version

BATCH = 250  # schedules that a process plays before it says what came of them
SHOWN = 50  # violations in a result
CODE = ("services", "proto", "tests/simulation")
COLLECT = 100  # schedules between two collections of garbage: a world is all circles


class OtherCode(ValueError):
    """A result whose violations may not be any more, or may be now."""


@dataclass(slots=True)
class Found:
    """`violations`: seeds, each with what did not hold. `noticed`: what processes said of others."""

    schedules: int = 0
    events: int = 0
    tokens: int = 0
    virtual_s: float = 0.0
    faults: Counter[str] = field(default_factory=Counter)
    noticed: Counter[str] = field(default_factory=Counter)
    violations: list[tuple[int, str]] = field(default_factory=list)

    def add(self, other: Found) -> None:
        self.schedules += other.schedules
        self.events += other.events
        self.tokens += other.tokens
        self.virtual_s += other.virtual_s
        self.faults += other.faults
        self.noticed += other.noticed
        self.violations += other.violations


def explore(seeds: Sequence[int], mutation: Mutation = NONE, *, first: bool = False) -> Found:
    """Plays the schedules of some seeds here; with `first`, no further than to the first violation."""
    found = Found()
    for seed in seeds:
        if seed % COLLECT == 0:
            gc.collect()
        plan = schedule(seed)
        found.schedules += 1
        found.faults.update(fault.kind for fault in plan.faults)
        try:
            played = play(plan, mutation)
        except Violation as violation:
            found.violations.append((seed, str(violation)))
        except Exception as error:  # noqa: BLE001  of the protocol or of the simulation: the others are played all the same
            found.violations.append((seed, f"error: {type(error).__name__}: {error}"))
        else:
            found.events += played.events
            found.tokens += played.tokens
            found.virtual_s += played.seconds
            found.noticed += played.noticed
        if first and found.violations:
            break
    return found


def _collect_seldom() -> None:
    gc.freeze()
    gc.disable()


def explore_on(processes: int, seeds: range, done: Callable[[int], None] = lambda schedules: None) -> Found:
    """The same on several processes. `done` hears of schedules that have been played."""
    found = Found()
    if not seeds:
        return found
    batches = [seeds[at : at + BATCH] for at in range(0, len(seeds), BATCH)]
    with ProcessPoolExecutor(processes, initializer=_collect_seldom) as pool:
        for each in pool.map(explore, batches):
            found.add(each)
            done(each.schedules)
    return found


def result(found: Found, seconds: float, processes: int, seed: int) -> dict[str, Any]:
    """The result as it is written."""
    return {
        "schedules": found.schedules,
        "seed": seed,
        "processes": processes,
        "seconds": round(seconds, 1),
        "events": found.events,
        "tokens": found.tokens,
        "virtual_hours": round(found.virtual_s / 3600, 1),
        "code": code_version(*CODE),
        "faults": dict(sorted(found.faults.items())),
        "noticed": dict(sorted(found.noticed.items())),
        "violations": len(found.violations),
        "first_violations": [{"seed": at, "what": what} for at, what in found.violations[:SHOWN]],
    }


def timed(processes: int, seeds: range, done: Callable[[int], None]) -> dict[str, Any]:
    began = time.monotonic()
    found = explore_on(processes, seeds, done)
    return result(found, time.monotonic() - began, processes, seeds.start)


def joined(before: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    """The result of a run and of one whose seeds follow on its own."""
    counted = {
        name: dict(sorted((Counter(before[name]) + Counter(more[name])).items())) for name in ("faults", "noticed")
    }
    summed = ("schedules", "seconds", "events", "tokens", "virtual_hours", "violations")
    first = (before["first_violations"] + more["first_violations"])[:SHOWN]
    return (
        before
        | {name: round(before[name] + more[name], 1) for name in summed}
        | counted
        | {"processes": more["processes"], "first_violations": first}
    )


def earlier(path: Path) -> dict[str, Any]:
    """Reads a result that more schedules are to be added to. Raises OtherCode."""
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if found.get("code") != code_version(*CODE):
        raise OtherCode(f"{path}: it is of other code than this; without --more it is written anew")
    return found
