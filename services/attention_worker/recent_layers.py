"""What each layer did of late: the wait for its experts, and the share of zero experts among its choices."""

from __future__ import annotations

from collections import deque

from services.router.dispatch.stats import DispatchStats, LayerStats

WINDOW_S = 10.0
Layers = tuple[LayerStats, ...]


class RecentLayers:
    """Means over the last WINDOW_S; while nothing runs, those of the last steps that did. For one thread."""

    def __init__(self, stats: DispatchStats, now: float) -> None:
        self._stats = stats
        self._taken: deque[tuple[float, Layers]] = deque([(now, stats.layers)])
        self._means: dict[str, list[float]] = {}

    def read(self, now: float) -> dict[str, list[float]]:
        """Returns lists by layer: whole microseconds of a call, and shares from 0 to 1; none before the first step.

        It is to be called about each second, at times that advance.
        """
        layers, taken = self._stats.layers, self._taken
        while len(taken) > 1 and taken[1][0] <= now - WINDOW_S:
            taken.popleft()
        if sum(layer.layer_calls for layer in layers) > sum(layer.layer_calls for layer in taken[-1][1]):
            taken.append((now, layers))
            self._means = _means(taken[0][1], layers)
        return self._means


def _means(before: Layers, after: Layers) -> dict[str, list[float]]:
    steps = list(zip(before, after, strict=True))
    calls = [max(1, b.layer_calls - a.layer_calls) for a, b in steps]
    choices = [max(1, b.choices - a.choices) for a, b in steps]
    ffn = [b.ffn_choices - a.ffn_choices for a, b in steps]
    exposed, trip = [b.exposed_s - a.exposed_s for a, b in steps], [b.round_trip_s - a.round_trip_s for a, b in steps]
    return {
        "exposed_us": [round(1e6 * s / n) for s, n in zip(exposed, calls, strict=True)],
        "round_trip_us": [round(1e6 * s / n) for s, n in zip(trip, calls, strict=True)],
        "zero_share": [round(1 - f / n, 3) for f, n in zip(ffn, choices, strict=True)],
    }
