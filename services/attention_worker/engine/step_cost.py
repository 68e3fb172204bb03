"""What a step costs in seconds: predicted from its tokens and its attention, learned from the steps that ran.

A step costs a fixed part, a part per token (projections, MLPs, experts) and a part per key that a query attends to; the
last one counts apart for decodes and for prompts, which share the reading of keys. A prompt's chunks take longer with
every token before them, so a bound on the time of a step needs this model and not a number of tokens.
No torch, no I/O, no clock; plain numbers, since in every step numpy's fixed cost per call would be felt.
Legend: F the four parts of the cost.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

PRIOR_S = (1e-3, 2e-4, 2e-7, 2e-7)  # of a slow machine, so that the first chunks are rather too short than too long
FIRST_SPREAD = 10.0  # how far off the prior may be, as a multiple of it; no estimate counts as less certain than that
DRIFT = 0.02  # how far a coefficient may move from one step to the next, as a share of it
NOISE = 0.15  # of a step's time, as a share of it
SMALLEST = 1e-5  # of a coefficient, as a share of its prior: an estimate may come out below zero
MOST = 2.0  # a step that waits for an expert or compiles a kernel counts as this many times its prediction, no more
CERTAIN = 3.0  # standard deviations of what is known
HEADROOM_UP, HEADROOM_DOWN = 1.2, 1 - 5e-4  # in balance when one step of four hundred takes longer than expected
HEADROOM_START, HEADROOM_LEAST, HEADROOM_MOST = 2.0, 1.1, 4.0  # shorter chunks cost little, a late token is seen


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
        self._cost_F = [1.0] * 4  # in units of the prior
        self._spread_FF = [[FIRST_SPREAD**2 * (i == j) for j in range(4)] for i in range(4)]
        self._headroom = HEADROOM_START

    def predict(self, work: Work) -> float:
        """The seconds that a step of this size takes, in the middle of what was measured."""
        return _dot(_features(work), self._cost_F)

    def prompt_s(self, start: int, length: int, chunk: int) -> float:
        """The seconds that a prompt's tokens take from `start` on, alone, in steps of `chunk` tokens."""
        more_steps = max(0, -(-length // chunk) - 1)
        return self.predict(Work.of_chunk(start, length, False)) + more_steps * PRIOR_S[0] * self._cost_F[0]

    def bound(self, work: Work) -> float:
        """The seconds that about one mixed step of four hundred exceeds."""
        return self._headroom * self.predict(work)

    def at_most(self, work: Work) -> float:
        """The seconds beyond which a step of this size is not explained by what was measured; many while little was."""
        seen_F = _features(work)
        spread = sum(seen * _dot(spread_F, seen_F) for seen, spread_F in zip(seen_F, self._spread_FF, strict=True))
        return _dot(seen_F, self._cost_F) + CERTAIN * math.sqrt(max(0.0, spread))

    def price(self, decodes: Work) -> float:
        """What as many rows again would cost, as a share of the seconds of a step with these: 0 to 1."""
        return 1 - self.predict(Work()) / self.predict(decodes)

    def prompt_tokens(self, before: Work, start: int, most: int, limit_s: float, least_s: float = 0.0) -> int:
        """How many tokens of a prompt, from `start` on, fit into a step of `limit_s` beside `before`: 0 to `most`.

        The prompt may take `least_s` in any case.
        """
        if limit_s == math.inf:
            return most
        left = max(limit_s / self._headroom - self.predict(before), least_s / self._headroom)
        if left <= 0:
            return 0
        _, per_token, _, per_key = (prior * cost for prior, cost in zip(PRIOR_S, self._cost_F, strict=True))
        # n tokens cost `once` * n + `per_key` / 2 * n * n; this form of the root does not cancel.
        once = per_token + per_key * (start + 0.5)
        return min(most, int(2 * left / (once + math.sqrt(once * once + 2 * per_key * left))))

    def observe(self, work: Work, seconds: float) -> None:
        """Learns from a step that took `seconds`."""
        seen_F = _features(work)
        predicted = _dot(seen_F, self._cost_F)
        if work.prompt_keys and work.decode_keys:
            self._learn_headroom(seconds / predicted)
        self._drift()
        counted = min(MOST * predicted, seconds)
        reach_F = [_dot(spread_F, seen_F) for spread_F in self._spread_FF]
        certainty = 1 / (_dot(seen_F, reach_F) + (NOISE * predicted) ** 2)
        off = certainty * (counted - predicted)
        self._cost_F = [cost + reach * off for cost, reach in zip(self._cost_F, reach_F, strict=True)]
        if counted == seconds:  # else it is known only that the step took longer than this
            for spread_F, reach in zip(self._spread_FF, reach_F, strict=True):
                gain = certainty * reach
                spread_F[:] = [spread - gain * other for spread, other in zip(spread_F, reach_F, strict=True)]
        self._keep_positive()

    def _keep_positive(self) -> None:
        """Raises coefficients that came out negative to the smallest, and moves the others as far as they correlate."""
        for index, spread_F in enumerate(self._spread_FF):
            short = SMALLEST - self._cost_F[index]
            if short > 0:
                share = short / spread_F[index]
                self._cost_F = [cost + share * spread for cost, spread in zip(self._cost_F, spread_F, strict=True)]
        self._cost_F = [max(cost, SMALLEST) for cost in self._cost_F]

    def _drift(self) -> None:
        """Makes every estimate a little less certain, since machines change; none less than at the start."""
        shrink_F = []
        for index, cost in enumerate(self._cost_F):
            self._spread_FF[index][index] += (DRIFT * cost) ** 2
            shrink_F.append(min(1.0, FIRST_SPREAD * max(1.0, cost) / math.sqrt(self._spread_FF[index][index])))
        if min(shrink_F) < 1.0:
            for spread_F, shrink in zip(self._spread_FF, shrink_F, strict=True):
                spread_F[:] = [spread * shrink * other for spread, other in zip(spread_F, shrink_F, strict=True)]

    def _learn_headroom(self, ratio: float) -> None:
        step = HEADROOM_UP if ratio > self._headroom else HEADROOM_DOWN
        self._headroom = min(HEADROOM_MOST, max(HEADROOM_LEAST, self._headroom * step))


def _features(work: Work) -> tuple[float, float, float, float]:
    """What each coefficient's prior would cost in this step."""
    fixed, token, decode_key, prompt_key = PRIOR_S
    return fixed, token * work.tokens, decode_key * work.decode_keys, prompt_key * work.prompt_keys


def _dot(a_F: Sequence[float], b_F: Sequence[float]) -> float:
    return a_F[0] * b_F[0] + a_F[1] * b_F[1] + a_F[2] * b_F[2] + a_F[3] * b_F[3]
