"""Curves of several seeds, and the spread of what they end with."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib import pyplot as plt
from matplotlib.axes import Axes

plt.switch_backend("Agg")

Curve = list[tuple[float, float]]


def read_log(path: Path, kind: str) -> list[dict[str, Any]]:
    """Returns the records of one kind, in order of steps."""
    records = (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())
    return [record for record in records if record["kind"] == kind]


def curve_of(records: Sequence[dict[str, Any]], name: str) -> Curve:
    """Returns (step, value) of the records of a run."""
    return [(record["step"], record[name]) for record in records]


def smooth(curve: Curve, window: int) -> Curve:
    """Returns the means of the last `window` points."""
    values = [value for _, value in curve]
    return [
        (x, statistics.fmean(values[max(0, number + 1 - window) : number + 1])) for number, (x, _) in enumerate(curve)
    ]


def draw_seeds(axis: Axes, curves: list[Curve], label: str, color: str) -> None:
    """Draws the mean over seeds, and the band from the lowest to the highest of them."""
    at = [x for x, _ in curves[0]]
    columns = list(zip(*([y for _, y in curve] for curve in curves), strict=True))
    axis.plot(at, [statistics.fmean(column) for column in columns], color=color, linewidth=1.2, label=label)
    if len(curves) > 1:
        low, high = [min(column) for column in columns], [max(column) for column in columns]
        axis.fill_between(at, low, high, color=color, alpha=0.15, linewidth=0)


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Returns mean, standard deviation (of a sample; 0 of one value) and the values."""
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return {"mean": statistics.fmean(values), "std": deviation, "values": list(values)}


def difference(ours: dict[int, float], others: dict[int, float]) -> dict[str, Any]:
    """Returns the spread of `ours` - `others` over the seeds, each seed against itself."""
    return spread([ours[seed] - others[seed] for seed in sorted(ours)])
