"""The loads: how often each expert is chosen, minute by minute.

Legend: M minutes; L layers; E experts of a layer; W workers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from bench.placement.simulation import Floats, Traffic

RATE = 160_000.0  # assignments per second of a layer: 20,000 tokens of 8 FFN experts
QUIET = 0.01  # of it where zero experts get most choices
CROWD = 0.25  # of a layer's rows, to `CROWDED` experts at once
CROWDED = 4
EXPONENT = 0.4  # of the Zipf law: the hottest of 512 experts has 7 times the rows of the mean one
SLOW = 0.5


@dataclass(frozen=True, slots=True)
class Shape:
    minutes: int
    layers: int
    experts: int


def _popularity(shape: Shape, exponent: float, seed: int) -> Floats:
    """Shares of a layer's rows by a Zipf law, in another order in each layer, [L, E]."""
    rng = np.random.default_rng(seed)
    share_E = np.arange(1, shape.experts + 1) ** -exponent
    return np.stack([rng.permutation(share_E / share_E.sum()) for _ in range(shape.layers)])


def _steady(shape: Shape, share_LE: Floats, rate: float = RATE) -> Floats:
    return np.broadcast_to(rate * share_LE, (shape.minutes, *share_LE.shape)).copy()


def zipf(shape: Shape) -> Traffic:
    return Traffic(_steady(shape, _popularity(shape, EXPONENT, 0)))


def drifting(shape: Shape) -> Traffic:
    """From one order of the Zipf law to an independent one."""
    first_LE, last_LE = (np.log(_popularity(shape, EXPONENT, seed)) for seed in (0, 1))
    turn_M11 = np.linspace(0, np.pi / 2, shape.minutes)[:, None, None]
    rows_MLE = np.exp(np.cos(turn_M11) * first_LE + np.sin(turn_M11) * last_LE)
    return Traffic(RATE * rows_MLE / rows_MLE.sum(axis=2, keepdims=True))


def flash_crowd(shape: Shape) -> Traffic:
    """In the third quarter a few experts of each layer get a quarter of its rows."""
    rows_MLE = _steady(shape, _popularity(shape, EXPONENT, 0))
    crowd = slice(shape.minutes // 2, shape.minutes * 3 // 4)
    chosen_LN = np.random.default_rng(2).permuted(np.tile(np.arange(shape.experts), (shape.layers, 1)), axis=1)
    rows_MLE[crowd] *= 1 - CROWD
    for layer, chosen_E in enumerate(chosen_LN[:, :CROWDED]):
        rows_MLE[crowd, layer, chosen_E] += RATE * CROWD / CROWDED
    return Traffic(rows_MLE)


def zero_heavy(shape: Shape) -> Traffic:
    """Nearly all choices are zero experts: few rows are left, and their counts are noise for the most part."""
    return Traffic(_steady(shape, _popularity(shape, EXPONENT / 2, 0), QUIET * RATE))


def straggler(shape: Shape) -> Traffic:
    """Experts nearly alike, and the first worker half as fast."""
    return Traffic(_steady(shape, _popularity(shape, EXPONENT / 4, 0)), slow=SLOW)


SKEWS: dict[str, Callable[[Shape], Traffic]] = {
    "Zipf": zipf,
    "drifting Zipf": drifting,
    "flash crowd": flash_crowd,
    "zero-heavy": zero_heavy,
    "a worker half as fast": straggler,
}
