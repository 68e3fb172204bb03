"""How long attention workers wait for an expert worker that is late or silent, before they ask others instead.

When a call is overdue, how often it is sent a second time, and who is avoided and probed when, is decided by the code
that decides it in the real cluster. All attention workers are taken for alike. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping

from services.router.dispatch.call_latency import FEWEST, HedgeBudget, HedgeOptions, Latencies, size_of
from services.router.dispatch.suspects import Suspects

OPTIONS = HedgeOptions()
ASSIGNMENTS = 1  # of a call: all calls are of one size here


def overdue_after(call_s: Mapping[str, float]) -> dict[str, float]:
    """After how many seconds a call to each worker is overdue, where calls have always taken as long as these."""
    latencies = Latencies[str](OPTIONS)
    for name, seconds in call_s.items():
        for _ in range(FEWEST):
            latencies.add(name, ASSIGNMENTS, seconds)
    return {name: limits[size_of(ASSIGNMENTS)] for name, limits in latencies.overdue_after().items()}


def until_avoided(
    suspects: Suspects[str], name: str, now: float, *, overdue_s: float, silent_s: float, again_s: float
) -> float:
    """For how many seconds layers wait for a worker until it is avoided, while others answer in its place.

    `overdue_s`: after which a call to it is; `silent_s`: after which its session has failed; `again_s`: that a call to
    another worker takes. The calls of one step earn more hedges than these: the budget is full.
    """
    waited_s, budget = 0.0, HedgeBudget(OPTIONS.budget)
    while name not in suspects.keys:
        if waited_s + overdue_s >= silent_s or not budget.take(0, 1):
            waited_s = max(waited_s, silent_s)
            suspects.failed(name, now + waited_s)
        else:
            waited_s += overdue_s
            suspects.overdue(name, 0, now + waited_s)
        waited_s += again_s
    return waited_s
