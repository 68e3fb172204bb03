"""Moves experts so that the slowest worker of each layer has less to do. Pure: numpy, no clock.

A layer takes as long as its slowest worker, a step the sum over the layers. Nothing moves unless a layer's predicted
gain is clearly more than what the noise of the measurement pretends, and then only down to a level where noise is left.
Legend: E experts of all layers, layer by layer, or of a layer; L layers; W workers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from services.router.placement.host_spread import spread_hosts
from services.router.placement.layer_search import LayerSearch, Step
from services.router.placement.limits import Limits, loads
from services.router.placement.load import Floats
from services.router.placement.quotas import Counts
from services.router.placement.table_view import Placed

STOP, STOP_NOISE = 0.02, 2.0  # above a fair load: share of it, standard deviations of it; no layer is made faster
START, START_NOISE = 0.05, 6.0  # of the slowest worker's load: a layer is left alone unless it gains as much
START_ALL = 0.01  # of a step's time: nothing moves unless all layers together gain as much
# A replica is added where it serves the rows of a mean one at least, and goes when it surely serves `COLD` of them.
COLD, SURE = 2 / 3, 3.0


class Stretch(NamedTuple):
    """Steps of a layer that follow each other, its `first` to `last`, and what they gain for each expert loaded."""

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
    has at most `extra` more. Replicas that share a host come first.
    """
    if not limits.gains_W.any() or len(limits.gains_W) < 2:
        return placed_EW
    shape = layers, -1
    placed_LEW = placed_EW.reshape(layers, -1, placed_EW.shape[1]).copy()
    rows_LE, base_LE = rows_E.reshape(shape), base_E.reshape(shape)
    fair_L = rows_LE.sum(axis=1) / limits.speed_W[limits.stays_W].sum()
    _drop_cold(placed_LEW, rows_LE, base_LE, counted_s, limits, fair_L * (1 + START))
    moves = spread_hosts(placed_LEW, rows_LE, limits, moves)
    if moves > 0 and rows_E.any():
        floor_L = fair_L * (1 + STOP) + STOP_NOISE * np.sqrt(fair_L / counted_s)
        search = LayerSearch(placed_LEW, rows_LE, limits, base_LE, extra, floor_L)
        peak_L = search.peak_L
        least_L = START * peak_L + START_NOISE * np.sqrt(np.maximum(peak_L, 0.0) / counted_s)
        rounds = search.run()
        before_LEW = placed_EW.reshape(placed_LEW.shape)
        _apply(placed_LEW, before_LEW, rounds, _choose(rounds, peak_L, least_L, moves), limits)
    return placed_LEW.reshape(placed_EW.shape)


def _drop_cold(
    placed_LEW: Placed, rows_LE: Floats, base_LE: Counts, counted_s: float, limits: Limits, good_L: Floats
) -> None:
    """Takes replicas away that no longer pay; no worker gets more than the slowest one has, or than `good_L`."""
    copies_LE = placed_LEW.sum(axis=2)
    mean_L = rows_LE.sum(axis=1) / np.maximum(copies_LE.sum(axis=1), 1)
    counted_LE = rows_LE * counted_s
    surely_LE = (counted_LE + SURE * np.sqrt(counted_LE) + SURE**2) / counted_s
    cold_LE = (copies_LE > base_LE) & (surely_LE < COLD * mean_L[:, None] * copies_LE)
    if not cold_LE.any():
        return
    load_LW = loads(placed_LEW, rows_LE, limits.speed_W)
    most_L = np.maximum(load_LW.max(axis=1), good_L)
    count_W = placed_LEW.sum(axis=(0, 1))
    for layer, item in np.argwhere(cold_LE).tolist():
        holder, after_W = limits.without_one(placed_LEW[layer, item], load_LW[layer], float(rows_LE[layer, item]))
        if after_W.max() <= most_L[layer] and count_W[holder] > limits.least_W[holder]:
            placed_LEW[layer, item, holder], load_LW[layer] = False, after_W
            count_W[holder] -= 1


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
    placed_LEW: Placed, before_LEW: Placed, rounds: Sequence[Sequence[Step]], taken: dict[int, int], limits: Limits
) -> None:
    """Carries the chosen steps out.

    A layer ends early where the steps of others, not chosen, would have made room, or where a worker would have too
    many experts before it lets go of those it loses.
    """
    count_W = placed_LEW.sum(axis=(0, 1))
    held_W = (placed_LEW | before_LEW).sum(axis=(0, 1))  # until the change is over
    left = dict(taken)
    for step in (step for steps in rounds for step in steps):
        if left.get(step.layer, 0) <= 0:
            continue
        left[step.layer] -= 1
        loser = step.holder if step.copied else step.worst
        full = count_W[step.partner] >= limits.most_W[step.partner]
        lacks = step.back < 0 and (full or (loser >= 0 and count_W[loser] <= limits.least_W[loser]))
        gainers = [step.partner, step.worst] if step.back >= 0 else [step.partner]
        if lacks or (held_W[gainers] >= limits.holds_W[gainers]).any():
            left[step.layer] = 0
            continue
        held_W[gainers] += 1
        changes = [(step.item, step.partner, True)]
        changes += [] if step.copied else [(step.item, step.worst, False)]
        changes += [(step.back, step.worst, True), (step.back, step.partner, False)] if step.back >= 0 else []
        changes += [(step.dropped, step.holder, False)] if step.dropped >= 0 else []
        for item, worker, placed in changes:
            placed_LEW[step.layer, item, worker] = placed
            count_W[worker] += 1 if placed else -1
