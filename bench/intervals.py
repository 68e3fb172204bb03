"""What repeated measurements of a machine that is never quite quiet say together."""

from __future__ import annotations

import random
from collections.abc import Sequence

DRAWS, CONFIDENCE = 10_000, 0.95


def middle_mean(values: Sequence[float]) -> float:
    """The mean without the smallest tenth and the largest tenth of them."""
    ordered = sorted(values)
    cut = len(ordered) // 10
    kept = ordered[cut : len(ordered) - cut]
    return sum(kept) / len(kept)


def interval(values: Sequence[float], draws: int = DRAWS) -> tuple[float, float]:
    """Where `middle_mean` lies with a confidence of CONFIDENCE, by bootstrap; the same draws each time."""
    chooser = random.Random(0)
    means = sorted(middle_mean(chooser.choices(values, k=len(values))) for _ in range(draws))
    out = round((1 - CONFIDENCE) / 2 * draws)
    return means[out], means[draws - 1 - out]


def within(bounds: tuple[float, float], goal: float) -> bool | None:
    """Whether what lies within the bounds is at most `goal`; None where they say neither."""
    low, high = bounds
    return True if high <= goal else False if low > goal else None
