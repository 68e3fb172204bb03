"""Which experts tokens choose: skewed, drifting, and crowded for a while. Pure and deterministic by its seed.

Legend: L layers; E experts of a layer.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from services.router.placement.load import Floats

CROWDED = 4  # experts of a layer that a crowd wants


@dataclass(frozen=True, slots=True, kw_only=True)
class Routing:
    """`exponent`: of the Zipf law, 0 = even. `drift_s`: in which it turns into an independent order, 0 = never.

    Between `crowd` seconds a few experts of each layer get `crowd_share` of its rows.
    """

    exponent: float = 0.4
    drift_s: float = 0.0
    crowd: tuple[float, float] = (0.0, 0.0)
    crowd_share: float = 0.25


class Popularity:
    """The share of a layer's rows that each expert gets, [L, E], by time."""

    def __init__(self, routing: Routing, layers: int, experts: int, seed: int) -> None:
        self._routing, self._seed = routing, seed
        self._shape = layers, experts
        rng = np.random.default_rng([seed, 1])
        self._crowded_LN = np.stack([rng.permutation(experts)[: min(CROWDED, experts)] for _ in range(layers)])

    def at(self, now: float) -> Floats:
        r = self._routing
        turns, part = divmod(now / r.drift_s, 1.0) if r.drift_s else (0.0, 0.0)
        angle = part * np.pi / 2
        log_LE = np.cos(angle) * self._order(int(turns))
        if part:
            log_LE += np.sin(angle) * self._order(int(turns) + 1)
        share_LE: Floats = np.exp(log_LE)
        share_LE /= share_LE.sum(axis=1, keepdims=True)
        if r.crowd[0] <= now < r.crowd[1]:
            share_LE *= 1 - r.crowd_share
            layers = np.arange(len(share_LE))[:, None]
            share_LE[layers, self._crowded_LN] += r.crowd_share / self._crowded_LN.shape[1]
        return share_LE

    def _order(self, number: int) -> Floats:
        """Logarithms of a Zipf law's shares, in another order in each layer."""
        layers, experts = self._shape
        rng = np.random.default_rng([self._seed, 0, number])
        law_E = -self._routing.exponent * np.log(np.arange(1, experts + 1))
        return np.stack([rng.permutation(law_E) for _ in range(layers)])
