"""How much each expert of a worker is asked for lately: counts since the start become rates that decay into the past.

A rate is the mean of the assignments per second, each second weighted by exp(-its age / TAU_S). The weights are divided
by their sum over the time since the expert was loaded, so that a rate is right on average from the first second on.
Legend: L layers, F FFN experts of a layer.
"""

from __future__ import annotations

import math

import numpy as np
from caracal_proto.loads import WorkerLoad
from numpy.typing import NDArray

TAU_S = 60.0


class ExpertLoad:
    """The rates of one worker. It reads no clock; one thread at a time may use it."""

    def __init__(self, layers: int, experts: int, now_s: float) -> None:
        self._updated_s = now_s
        self._assigned_LF = np.zeros((layers, experts), np.int64)  # at the last update, as are the next two
        self._loaded_LF = np.zeros((layers, experts), np.bool_)
        self._busy_s = 0.0
        # Decayed sums, and the sums of the weights behind them: 1 after a long time.
        self._rate_LF, self._weight_LF = np.zeros((layers, experts)), np.zeros((layers, experts))
        self._total = self._busy = self._weight = 0.0

    def update(
        self, assigned_LF: NDArray[np.int64], loaded_LF: NDArray[np.bool_], busy_s: float, now_s: float
    ) -> WorkerLoad:
        """The load at `now_s`, from what was counted since the start: assignments, and seconds spent in launches.

        An expert that is not loaded has no rate, and starts anew when it is loaded again. Both arrays are kept: they
        must not change afterwards. An update at the moment of the last one changes nothing.
        """
        elapsed_s = now_s - self._updated_s
        if elapsed_s > 0:
            self._decay(elapsed_s, assigned_LF - self._assigned_LF, loaded_LF, busy_s - self._busy_s)
            self._updated_s, self._assigned_LF, self._loaded_LF = now_s, assigned_LF, loaded_LF
            self._busy_s = busy_s
        weight = self._weight or 1.0
        rate_LF = np.divide(self._rate_LF, self._weight_LF, out=np.zeros_like(self._rate_LF), where=self._loaded_LF)
        return WorkerLoad(self._loaded_LF, rate_LF, self._window_s(), self._busy / weight, self._total / weight)

    def _decay(self, elapsed_s: float, new_LF: NDArray[np.int64], loaded_LF: NDArray[np.bool_], busy_s: float) -> None:
        """Adds what was counted in `elapsed_s`, as if evenly spread over them: any division of the time is exact."""
        kept, share = math.exp(-elapsed_s / TAU_S), -math.expm1(-elapsed_s / TAU_S)
        self._rate_LF *= kept
        self._rate_LF += new_LF * (share / elapsed_s)
        self._rate_LF *= loaded_LF
        self._weight_LF *= kept
        self._weight_LF += share
        self._weight_LF *= loaded_LF
        self._total = kept * self._total + share / elapsed_s * int(new_LF.sum())
        self._busy = kept * self._busy + share / elapsed_s * busy_s
        self._weight = kept * self._weight + share

    def _window_s(self) -> float:
        """Seconds of plain counting that have a rate's variance by chance, as a mean over the loaded experts.

        With a weight of w = 1 - exp(-T / tau) after T seconds the variance is rate / (2 tau w / (2 - w)): T seconds
        at first, 2 tau in the end.
        """
        weight_E = self._weight_LF[self._loaded_LF]
        return float(np.mean(2 * TAU_S * weight_E / (2 - weight_E))) if len(weight_E) else 0.0
