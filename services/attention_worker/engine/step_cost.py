"""What a step costs in seconds: predicted from its tokens and its attention, learned from the steps that ran.

A step costs a fixed part, a part per token (projections, MLPs, experts) and a part per key that a query attends to; the
last one counts apart for decodes and for prompts, which share the reading of keys. A prompt's chunks take longer with
every token before them, so a bound on the time of a step needs this model and not a number of tokens.
No torch, no I/O, no clock. Legend: F the four parts of the cost.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

PRIOR_S = (1e-3, 2e-4, 2e-7, 2e-7)  # of a slow machine, so that the first chunks are rather too short than too long
FIRST_SPREAD = 10.0  # how far off the prior may be, as a multiple of it; no estimate counts as less certain than that
DRIFT = 0.02  # how far a coefficient may move from one step to the next, as a share of it
NOISE = 0.15  # of a step's time, as a share of it
SMALLEST = 1e-5  # of a coefficient, as a share of its prior: an estimate may come out below zero
MOST = 2.0  # a step that waits for an expert or compiles a kernel counts as this many times its prediction, no more
HEADROOM_UP, HEADROOM_DOWN = 1.1, 1 - 5e-4  # in balance when one step of two hundred takes longer than expected
HEADROOM_START, HEADROOM_MOST = 1.4, 4.0


@dataclass(frozen=True, slots=True)
class Work:
    """The size of a step, or of a part of it. Keys are counted once for each token that attends to them."""

    tokens: int = 0
    decode_keys: int = 0
    prompt_keys: int = 0

    @classmethod
    def of_chunk(cls, start: int, length: int, decode: bool) -> Work:
        """A chunk of `length` tokens after `start` cached ones; each of its tokens sees all before it and itself."""
        keys = length * start + length * (length + 1) // 2
        return cls(length, keys, 0) if decode else cls(length, 0, keys)

    def __add__(self, other: Work) -> Work:
        return Work(
            self.tokens + other.tokens, self.decode_keys + other.decode_keys, self.prompt_keys + other.prompt_keys
        )


class StepCost:
    """Predicts steps, and learns from each one that ran: a Kalman filter over the four coefficients.

    It keeps what it knows of each of them apart, so that a thousand decodes do not change what prompts cost.
    """

    def __init__(self) -> None:
        self._prior_F: NDArray[np.float64] = np.array(PRIOR_S)
        self._cost_F: NDArray[np.float64] = np.ones(4)  # in units of the prior
        self._spread_FF: NDArray[np.float64] = np.eye(4) * FIRST_SPREAD**2
        self._headroom = HEADROOM_START

    def predict(self, work: Work) -> float:
        """The seconds that a step of this size takes, in the middle of what was measured."""
        return float(self._features(work) @ self._cost_F)

    def bound(self, work: Work) -> float:
        """The seconds that about one mixed step of two hundred exceeds."""
        return self._headroom * self.predict(work)

    def prompt_tokens(self, before: Work, start: int, most: int, limit_s: float, least_s: float = 0.0) -> int:
        """How many tokens of a prompt, from `start` on, fit into a step of `limit_s` beside `before`: 0 to `most`.

        The prompt may take `least_s` in any case.
        """
        if limit_s == math.inf:
            return most
        left = max(limit_s / self._headroom - self.predict(before), least_s / self._headroom)
        if left <= 0:
            return 0
        _, per_token, _, per_key = (self._prior_F * self._cost_F).tolist()
        # n tokens cost `once` * n + `per_key` / 2 * n * n; this form of the root does not cancel.
        once = per_token + per_key * (start + 0.5)
        return min(most, int(2 * left / (once + math.sqrt(once * once + 2 * per_key * left))))

    def observe(self, work: Work, seconds: float) -> None:
        """Learns from a step that took `seconds`."""
        seen_F = self._features(work)
        predicted = float(seen_F @ self._cost_F)
        if work.prompt_keys and work.decode_keys:
            self._learn_headroom(seconds / predicted)
        self._drift()
        counted = min(MOST * predicted, seconds)
        reach_F = self._spread_FF @ seen_F
        gain_F = reach_F / (float(seen_F @ reach_F) + (NOISE * predicted) ** 2)
        self._cost_F = self._cost_F + gain_F * (counted - predicted)
        if counted == seconds:  # else it is known only that the step took longer than this
            self._spread_FF = self._spread_FF - np.outer(gain_F, reach_F)
        self._keep_positive()

    def _keep_positive(self) -> None:
        """Raises coefficients that came out negative to the smallest, and moves the others as far as they correlate."""
        for index in range(len(self._cost_F)):
            short = SMALLEST - self._cost_F[index]
            if short > 0:
                self._cost_F = self._cost_F + short * self._spread_FF[index] / self._spread_FF[index, index]
        self._cost_F = np.maximum(self._cost_F, SMALLEST)

    def _drift(self) -> None:
        """Makes every estimate a little less certain, since machines change; none less than at the start."""
        spread_F = np.diagonal(self._spread_FF) + (DRIFT * self._cost_F) ** 2
        np.fill_diagonal(self._spread_FF, spread_F)
        shrink_F = np.minimum(1.0, FIRST_SPREAD * np.maximum(1.0, self._cost_F) / np.sqrt(spread_F))
        self._spread_FF *= np.outer(shrink_F, shrink_F)

    def _learn_headroom(self, ratio: float) -> None:
        step = HEADROOM_UP if ratio > self._headroom else HEADROOM_DOWN
        self._headroom = min(HEADROOM_MOST, max(1.0, self._headroom * step))

    def _features(self, work: Work) -> NDArray[np.float64]:
        """What each coefficient's prior would cost in this step."""
        return self._prior_F * (1, work.tokens, work.decode_keys, work.prompt_keys)
