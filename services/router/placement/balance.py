"""Moves experts so that the slowest worker of each layer has less to do. Pure: numpy, no clock.

A layer takes as long as its slowest worker, a step the sum over the layers. Nothing moves unless a layer's predicted
gain is clearly more than what the noise of the measurement pretends, and then only down to a level where noise is left.
Legend: E experts of all layers, layer by layer, or of a layer; L layers; W workers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from services.router.placement.layer_search import LayerSearch, Step
from services.router.placement.limits import Limits, loads
from services.router.placement.load import Floats
from services.router.placement.quotas import Counts
from services.router.placement.table_view import Placed

STOP, STOP_NOISE = 0.02, 2.0  # above a fair load: share of it, standard deviations of it; no layer is made faster
START, START_NOISE = 0.05, 6.0  # of the slowest worker's load: a layer is left alone unless it gains as much
START_ALL = 0.01  # of a step's time: nothing moves unless all layers together gain as much
COLD, SURE = 0.5, 3.0  # times a mean replica's rows: a replica goes when the others would surely serve less each


class Stretch(NamedTuple):
    """Steps of a layer that follow each other, numbers `first` to `last` of its own, and what an expert loaded gains."""

    slope: float
    layer: int
    first: int
    last: int


def balance(
    placed_EW: Placed,
    layers: int,
    rows_E: Floats,
    counted_s: float,
    limits: Limits,
    base_E: Counts,
    extra: int,
    moves: int,
) -> Placed:
    """Returns a placement for which workers load at most `moves` experts, or the same one.

    `rows_E` are assignments per second, of so many seconds' counts. Each expert keeps `base_E` replicas, and each layer
    has at most `extra` more.
    """
    if limits.gains_W.sum() < 1 or len(limits.gains_W) < 2 or not rows_E.any():
        return placed_EW
    shape = layers, -1
    placed_LEW = placed_EW.reshape(layers, -1, placed_EW.shape[1]).copy()
    rows_LE, base_LE = rows_E.reshape(shape), base_E.reshape(shape)
    _drop_cold(placed_LEW, rows_LE, base_LE, counted_s, limits)
    if moves > 0:
        fair_L = rows_LE.sum(axis=1) / limits.speed_W[limits.stays_W].sum()
        floor_L = fair_L * (1 + STOP) + STOP_NOISE * np.sqrt(fair_L / counted_s)
        search = LayerSearch(placed_LEW, rows_LE, limits, base_LE, extra, floor_L)
        peak_L = search.peak_L
        least_L = START * peak_L + START_NOISE * np.sqrt(np.maximum(peak_L, 0.0) / counted_s)
        rounds = search.run()
        _apply(placed_LEW, rounds, _choose(rounds, peak_L, least_L, moves), moves, limits)
    return placed_LEW.reshape(placed_EW.shape)


def _drop_cold(placed_LEW: Placed, rows_LE: Floats, base_LE: Counts, counted_s: float, limits: Limits) -> None:
    """Takes replicas away that no longer pay, without making any layer's slowest worker slower."""
    copies_LE = placed_LEW.sum(axis=2)
    mean_L = rows_LE.sum(axis=1) / np.maximum(copies_LE.sum(axis=1), 1)
    counted_LE = rows_LE * counted_s
    surely_LE = (counted_LE + SURE * np.sqrt(counted_LE) + SURE**2) / counted_s
    cold_LE = (copies_LE > base_LE) & (surely_LE < COLD * mean_L[:, None] * (copies_LE - 1))
    if not cold_LE.any():
        return
    load_LW = loads(placed_LEW, rows_LE, limits.speed_W)
    peak_L = load_LW.max(axis=1)
    for layer, item in np.argwhere(cold_LE).tolist():
        copies, rows = int(copies_LE[layer, item]), float(rows_LE[layer, item])
        placed_W = placed_LEW[layer, item]
        left_W = placed_W.copy()
        left_W[limits.holder_to_drop(placed_W, load_LW[layer])] = False
        after_W = load_LW[layer] + (left_W * rows / (copies - 1) - placed_W * rows / copies) / limits.speed_W
        if after_W.max() <= peak_L[layer]:
            placed_W[:], load_LW[layer] = left_W, after_W


def _choose(rounds: Sequence[Sequence[Step]], peak_L: Floats, least_L: Floats, moves: int) -> dict[int, int]:
    """Returns how many of its steps each layer takes: those with the most gain per expert loaded, `moves` in all."""
    by_layer: dict[int, list[Step]] = {}
    for step in (step for steps in rounds for step in steps):
        by_layer.setdefault(step.layer, []).append(step)
    stretches: list[Stretch] = []
    gained = 0.0
    for layer, steps in by_layer.items():
        gain = float(peak_L[layer]) - min(step.peak for step in steps)
        if gain >= least_L[layer]:
            gained += gain
            stretches += _stretches(layer, steps, float(peak_L[layer]))
    taken: dict[int, int] = {}
    if gained < START_ALL * float(peak_L.sum()):
        return taken
    for stretch in sorted(stretches, key=lambda stretch: -stretch.slope):
        for number in range(stretch.first, stretch.last + 1):
            cost = by_layer[stretch.layer][number].cost
            if cost > moves:
                return taken
            moves -= cost
            taken[stretch.layer] = number + 1
    return taken


def _stretches(layer: int, steps: Sequence[Step], peak: float) -> list[Stretch]:
    """Cuts a layer's steps so that the gain per expert loaded falls from stretch to stretch.

    A step that only brings one of several equally slow workers down gains nothing before the last of them.
    """
    cost_S = np.cumsum([step.cost for step in steps]).tolist()
    found: list[Stretch] = []
    first, paid = 0, 0
    while first < len(steps):
        slopes = [(peak - steps[n].peak) / (cost_S[n] - paid) for n in range(first, len(steps))]
        slope = max(slopes)
        if slope <= 0:
            break
        last = first + slopes.index(slope)
        found.append(Stretch(slope, layer, first, last))
        first, paid, peak = last + 1, cost_S[last], steps[last].peak
    return found


def _apply(
    placed_LEW: Placed, rounds: Sequence[Sequence[Step]], taken: dict[int, int], moves: int, limits: Limits
) -> None:
    """Carries the chosen steps out; a layer ends early where the steps of others, not chosen, would have made room."""
    count_W = placed_LEW.sum(axis=(0, 1))
    left = dict(taken)
    for step in (step for steps in rounds for step in steps):
        if left.get(step.layer, 0) <= 0:
            continue
        left[step.layer] -= 1
        if step.back < 0 and (
            count_W[step.partner] >= limits.most_W[step.partner]
            or (not step.copied and count_W[step.worst] <= limits.least_W[step.worst])
        ):
            left[step.layer] = 0
            continue
        changes = [(step.item, step.partner, True)]
        changes += [] if step.copied else [(step.item, step.worst, False)]
        changes += [(step.back, step.worst, True), (step.back, step.partner, False)] if step.back >= 0 else []
        changes += [(step.dropped, step.holder, False)] if step.dropped >= 0 else []
        for item, worker, placed in changes:
            placed_LEW[step.layer, item, worker] = placed
            count_W[worker] += 1 if placed else -1
