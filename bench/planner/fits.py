"""Fits of a device's factors on rows of Table 6, and what they give on the rows that were left out."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from services.planner.device import Device, Factors, Link
from services.planner.published import ascend_gain, ascend_together
from services.planner.report_rows import TABLE_6, table_6
from services.planner.rows import Profiles

LOW, HIGH, HALVINGS = 0.3, 1.5, 40
GRID = (
    tuple(0.7 + 0.05 * step for step in range(7)),  # efficiency
    tuple(0.2 * step for step in range(6)),  # loss of what overlaps
    tuple(1e-6 * step for step in range(3, 12)),  # seconds of one kernel's start
)

# Of 910C, all that is published of the vLLM AFD plug-in: tokens, and tokens/s of a die or % over it with so many dies.
PLUG_IN = ((16384, 0, 232.6), (16384, 48, -5.3), (16384, 64, 11.3), (32768, 0, 168.2), (32768, 48, -10.0),
           (32768, 64, 9.0))  # fmt: skip
PLUG_IN_GRID = (
    (0.8, 0.85, 0.9, 0.95, 1.0),  # efficiency
    (0.0, 0.2, 0.4),  # loss of what overlaps
    (5e-6, 7.5e-6, 10e-6, 12.5e-6, 15e-6, 20e-6),  # seconds of one kernel's start
    (60e9, 75e9, 90e9, 110e9, 130e9),  # bytes per second of an index
)


@dataclass(frozen=True, slots=True)
class Fit:
    """Factors from some rows, and the errors on all of Table 6, as shares."""

    factors: Factors
    errors: tuple[float, ...]


def errors(device: Device, link: Link, factors: Factors) -> tuple[float, ...]:
    fitted = replace(device, factors=factors)
    return tuple(table_6(fitted, link, *row[:3]) / row[3] - 1 for row in TABLE_6)


def on_one_row(device: Device, link: Link, number: int) -> Fit:
    """The efficiency with which the model meets one row; the other two factors stay as they are."""
    low, high = LOW, HIGH
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        slow = errors(device, link, replace(device.factors, efficiency=middle))[number] < 0
        low, high = (middle, high) if slow else (low, middle)
    factors = replace(device.factors, efficiency=(low + high) / 2)
    return Fit(factors, errors(device, link, factors))


def left_out(device: Device, link: Link) -> list[Fit]:
    """For each row: all three factors from the other four rows, by least squares over a grid."""
    grid = [Factors(efficiency=e, overlap_loss=loss, op_s=op) for e, loss, op in itertools.product(*GRID)]
    table = [(factors, errors(device, link, factors)) for factors in grid]
    return [Fit(*min(table, key=lambda one: _squares(one[1], number))) for number in range(len(TABLE_6))]


def _squares(found: Sequence[float], without: int) -> float:
    return math.fsum(math.log1p(error) ** 2 for number, error in enumerate(found) if number != without)


def on_plug_in(profiles: Profiles) -> Device:
    """910C with the factors of PLUG_IN_GRID that come nearest to all of PLUG_IN, by least squares of logarithms."""
    bare = profiles.devices["910c"]
    grid = [
        replace(bare, index_bytes_s=index, factors=replace(bare.factors, efficiency=e, overlap_loss=loss, op_s=op))
        for e, loss, op, index in itertools.product(*PLUG_IN_GRID)
    ]

    def off(device: Device) -> float:
        tried = Profiles({**profiles.devices, "910c": device}, profiles.links)
        logs = []
        for context, dies, published in PLUG_IN:
            if dies:
                logs.append(math.log((100 + ascend_gain(tried, context, dies)) / (100 + published)))
            else:
                logs.append(math.log(ascend_together(tried, context) / published))
        return math.fsum(each**2 for each in logs)

    return min(grid, key=off)
