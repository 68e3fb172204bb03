"""Plays minutes of a load against a placement that is made anew after each.

Legend: M minutes; L layers; E experts of a layer; W workers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]
# From rows per second as measured, [L, E], the workers' speeds and the placement, [L, E, W], to the next placement.
Policy = Callable[[Floats, Floats, Counts], Counts]

EXPERT_BYTES = 3 * 6144 * 2048 * 2  # LongCat-Flash's, bf16
WINDOW_S = 60.0
SPEED_NOISE = 0.02  # standard deviation of a measured speed


@dataclass(frozen=True, slots=True, eq=False)
class Traffic:
    """Rows per second, [M, L, E]; the first worker's speed is `slow`. `counted`: these are counts, noise included."""

    rows_MLE: Floats
    slow: float = 1.0
    counted: bool = False


@dataclass(frozen=True, slots=True)
class Minute:
    """`balancedness`: mean over the layers of mean load / greatest load; `step`: time over that of even loads."""

    balancedness: float
    step: float
    loaded: int


def play(traffic: Traffic, workers: int, start_LEW: Counts, policy: Policy, seed: int = 0) -> list[Minute]:
    """Each minute with the placement made from what was measured in the one before it; the first with `start_LEW`."""
    rng = np.random.default_rng(seed)
    speed_W = np.ones(workers)
    speed_W[0] = traffic.slow
    placed_LEW, loaded = start_LEW, 0
    found = []
    for rows_LE in traffic.rows_MLE:
        found.append(minute(placed_LEW, rows_LE, speed_W, loaded))
        measured_LE = rows_LE if traffic.counted else rng.poisson(rows_LE * WINDOW_S) / WINDOW_S
        noisy_W = speed_W * (1 + SPEED_NOISE * rng.standard_normal(workers))
        next_LEW = policy(measured_LE, noisy_W, placed_LEW)
        loaded = int(((next_LEW > 0) & (placed_LEW == 0)).sum())
        placed_LEW = next_LEW
    return found


def minute(placed_LEW: Counts, rows_LE: Floats, speed_W: Floats, loaded: int) -> Minute:
    share_LE = rows_LE / placed_LEW.sum(axis=2)
    busy_LW = np.matmul(share_LE[:, None, :], placed_LEW)[:, 0] / speed_W
    fair_L, slowest_L = rows_LE.sum(axis=1) / speed_W.sum(), busy_LW.max(axis=1)
    return Minute(float((fair_L / slowest_L).mean()), float(slowest_L.sum() / fair_L.sum()), loaded)


def summary(minutes: list[Minute], first: int) -> dict[str, Any]:
    """Means from minute `first` on, what was loaded in all minutes, and every minute's step."""
    after = minutes[first:]
    loaded = sum(each.loaded for each in minutes)
    return {
        "balancedness": float(np.mean([each.balancedness for each in after])),
        "step": float(np.mean([each.step for each in after])),
        "loaded": loaded,
        "loaded_per_minute": loaded / len(minutes),
        "gb_per_minute": loaded * EXPERT_BYTES / 1e9 / len(minutes),
        "step_by_minute": [round(each.step, 4) for each in minutes],
        "loaded_by_minute": [each.loaded for each in minutes],
    }
