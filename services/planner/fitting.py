"""Fits factors to measured latencies by Levenberg and Marquardt: least squares of the logarithms of ratios.

Legend: P points, F factors.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from services.planner.device import Device, Factors, Link
from services.planner.one_machine import Point, step

# Each factor with its start and its bounds; seconds, and shares of one.
FACTORS: Mapping[str, tuple[float, float, float]] = {
    "efficiency": (0.5, 0.1, 3.0),  # above one where a CPU's caches keep the weights of a small model
    "overlap_loss": (0.5, 0.01, 1.0),
    "op_s": (2e-6, 1e-8, 1e-4),
    "step_s": (5e-4, 1e-6, 5e-2),
    "row_s": (2e-5, 1e-7, 5e-3),
    "touch_s": (2e-6, 1e-8, 1e-3),
    "latency_s": (2e-5, 1e-7, 1e-2),
    "link_row_s": (1e-6, 1e-8, 1e-3),
    "message_s": (9e-6, 1e-7, 1e-3),  # a lone socket's would count the sleeps of both ends
}
ROUNDS, NUDGE, FIRST_DAMPING, PULL = 60, 1e-3, 0.1, 0.02


def with_factors(device: Device, link: Link, values: Mapping[str, float]) -> tuple[Device, Link]:
    """The device and the link with these factors."""
    factors = Factors(
        efficiency=values["efficiency"],
        overlap_loss=values["overlap_loss"],
        op_s=values["op_s"],
        step_s=values["step_s"],
        row_s=values["row_s"],
        touch_s=values["touch_s"],
        fitted_on="--calibrate",
    )
    fitted = replace(device, factors=factors)
    latency_s, message_s, row_s = (values[name] for name in ("latency_s", "message_s", "link_row_s"))
    return fitted, replace(link, latency_s=latency_s, message_s=message_s, row_s=row_s)


def fit(measured: Sequence[tuple[Point, float]], device: Device, link: Link) -> dict[str, float]:
    """Factors with which the model comes nearest to the measured seconds of a step.

    A weak pull to the start keeps a factor that the points say nothing about where it was.
    """

    def off(values: Mapping[str, float]) -> list[float]:
        one, wire = with_factors(device, link, values)
        ratios = [math.log(step(point, one, wire).seconds / seconds) for point, seconds in measured]
        return ratios + [PULL * math.log(values[name] / start) for name, (start, _, _) in FACTORS.items()]

    return least(off, FACTORS)


def least(
    off: Callable[[Mapping[str, float]], list[float]], factors: Mapping[str, tuple[float, float, float]]
) -> dict[str, float]:
    """The factors within their bounds for which the squares of what `off` gives are least, near the start."""
    names = list(factors)
    values, damping = {name: start for name, (start, _, _) in factors.items()}, FIRST_DAMPING
    off_P = off(values)
    for _ in range(ROUNDS):
        slopes_FP = []
        for name in names:
            low, high = factors[name][1:]
            nudged = values[name] * (1 + NUDGE) if values[name] * (1 + NUDGE) <= high else values[name] * (1 - NUDGE)
            moved_P = off(values | {name: max(low, nudged)})
            width = math.log(max(low, nudged) / values[name])
            slopes_FP.append([(a - b) / width for a, b in zip(moved_P, off_P, strict=True)])
        normal_FF = [[_dot(a_P, b_P) for b_P in slopes_FP] for a_P in slopes_FP]
        pull_F = [-_dot(a_P, off_P) for a_P in slopes_FP]
        while damping < 1e6:
            damped_FF = [
                [x + damping * (x + 1e-9) * (i == j) for j, x in enumerate(row)] for i, row in enumerate(normal_FF)
            ]
            move_F = _solve(damped_FF, pull_F)
            tried = {
                name: min(factors[name][2], max(factors[name][1], values[name] * math.exp(max(-2.0, min(2.0, move)))))
                for name, move in zip(names, move_F, strict=True)
            }
            tried_P = off(tried)
            if _dot(tried_P, tried_P) < _dot(off_P, off_P):
                break
            damping *= 4
        else:
            return values
        gain = _dot(off_P, off_P) - _dot(tried_P, tried_P)
        values, off_P, damping = tried, tried_P, damping / 4
        if gain < 1e-9:
            break
    return values


def _solve(rows_FF: list[list[float]], right_F: list[float]) -> list[float]:
    """Solves a small system by elimination with pivots."""
    size = len(right_F)
    table = [[*row, right] for row, right in zip(rows_FF, right_F, strict=True)]
    for column in range(size):
        best = max(range(column, size), key=lambda row: abs(table[row][column]))
        table[column], table[best] = table[best], table[column]
        pivot = table[column][column] or 1e-12
        for row in range(size):
            if row != column:
                share = table[row][column] / pivot
                table[row] = [a - share * b for a, b in zip(table[row], table[column], strict=True)]
    return [table[row][size] / (table[row][row] or 1e-12) for row in range(size)]


def _dot(a: Sequence[float], b: Sequence[float]) -> float:
    return math.fsum(x * y for x, y in zip(a, b, strict=True))
