"""pass^k: how likely k independent tries of one task all succeed, as tau-bench defines it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from math import comb
from typing import Any

from training.agentic.difficulty import AXES, Difficulty


@dataclass(frozen=True)
class Tried:
    """A task's outcome: how many of its trials succeeded."""

    name: str
    difficulty: Difficulty
    words: str  # seen or unseen
    successes: int
    trials: int
    endings: tuple[str, ...] = ()


def pass_power(successes: int, trials: int, k: int) -> float:
    """Returns the unbiased estimate for one task. Raises ValueError when there are fewer trials than k."""
    if trials < k:
        raise ValueError(f"pass^{k} needs {k} trials, there are {trials}")
    return comb(successes, k) / comb(trials, k)


def mean_passes(tried: Iterable[Tried], powers: tuple[int, ...]) -> dict[str, Any]:
    """Returns the number of tasks and, for every k, the mean of pass^k."""
    rows = list(tried)
    return {"tasks": len(rows)} | {
        f"pass^{k}": sum(pass_power(one.successes, one.trials, k) for one in rows) / len(rows) for k in powers
    }


def by_axis(tried: list[Tried], powers: tuple[int, ...]) -> dict[str, dict[str, Any]]:
    """Returns for every axis, and for words, the passes of each level."""
    found: dict[str, dict[str, Any]] = {}
    for axis in AXES:
        levels = sorted({asdict(one.difficulty)[axis] for one in tried})
        found[axis] = {
            str(level): mean_passes((one for one in tried if asdict(one.difficulty)[axis] == level), powers)
            for level in levels
        }
    kinds = sorted({one.words for one in tried})
    found["words"] = {kind: mean_passes((one for one in tried if one.words == kind), powers) for kind in kinds}
    return found
