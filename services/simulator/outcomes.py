"""What clients see: times between tokens, first tokens, stalls, and how every request ended."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from services.planner.traffic import Slo
from services.simulator.generation import Generation
from services.simulator.histogram import Histogram
from services.simulator.run_of_steps import Run

BIN_S = 10.0  # of the timeline


@dataclass(slots=True)
class Outcomes:
    """`tokens_by_bin`: new tokens in each BIN_S."""

    generations: list[Generation] = field(default_factory=list)
    itl: Histogram = field(default_factory=Histogram)
    tokens_by_bin: Counter[int] = field(default_factory=Counter)

    def ran(self, run: Run, given: list[Generation]) -> None:
        """Takes a run's tokens, one of each step for each of these."""
        steps, waited_s = run.steps, run.waited_s
        usual_s = run.first_s + (waited_s if steps == 1 else 0.0)
        first_at = run.began + usual_s
        longest_s = run.last_s + waited_s
        together = 0
        for one in given:
            if one.tokens:
                gap_s = first_at - one.last
                if gap_s - usual_s < 1e-9:
                    together += 1
                else:
                    self.itl.add(gap_s)
                if gap_s > one.longest_gap:
                    one.longest_gap = gap_s
            else:
                one.first = first_at
            if steps > 1 and longest_s > one.longest_gap:
                one.longest_gap = longest_s
            one.last = run.ends_at
            one.tokens += steps
        if together:
            self.itl.add(usual_s, together)
        if steps > 1:
            self.itl.add(longest_s, len(given))
            if steps > 2:
                self.itl.add(run.mean_s, (steps - 2) * len(given))
        self.tokens_by_bin[int(run.ends_at // BIN_S)] += steps * len(given)

    def summary(self, begin: float, end: float, slo: Slo) -> Summary:
        """What became of requests that came from `begin` to `end`."""
        return Summary.of([g for g in self.generations if begin <= g.arrived < end], self.itl, end - begin, slo)


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """Seconds, and rates per second. `goodput`: requests that finished within the SLO."""

    requests: int
    ends: dict[str, int]
    rate: float
    goodput: float
    tokens_s: float
    ttft_p50: float
    ttft_p99: float
    itl_p50: float
    itl_p99: float
    tpot_p99: float
    stall_p99: float
    longest_stall: float
    attempts_most: int

    @classmethod
    def of(cls, generations: Sequence[Generation], itl: Histogram, seconds: float, slo: Slo) -> Summary:
        done = [g for g in generations if g.end == "finished"]
        good = [g for g in done if g.ttft_s <= slo.ttft_s and g.tpot_s <= slo.itl_s]
        ttft = [g.ttft_s for g in done]
        stalls = [g.longest_gap for g in done]
        return cls(
            requests=len(generations),
            ends=dict(sorted(Counter(g.end for g in generations).items())),
            rate=len(generations) / seconds,
            goodput=len(good) / seconds,
            tokens_s=sum(g.tokens for g in generations) / seconds,
            ttft_p50=percentile(ttft, 50),
            ttft_p99=percentile(ttft, 99),
            itl_p50=itl.percentile(0.5),
            itl_p99=itl.percentile(0.99),
            tpot_p99=percentile([g.tpot_s for g in done], 99),
            stall_p99=percentile(stalls, 99),
            longest_stall=max(stalls, default=math.nan),
            attempts_most=max((g.attempts for g in generations), default=0),
        )


def percentile(values: Sequence[float], share: float) -> float:
    """NaN of nothing."""
    return float(np.percentile(values, share)) if len(values) else math.nan
