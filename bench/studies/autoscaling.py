"""`python -m bench.studies.autoscaling`: when autoscaling of expert pods beats a static number.

8 attention workers; traffic swings between a high and a low rate. Expert pods are as many as the high rate wants, or
what the chart's HorizontalPodAutoscaler makes of the time that calls wait.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bench.studies.large import SKEW, SLO, deployment
from bench.studies.progress import progress
from bench.studies.study import Options, Panel, study
from services.simulator.autoscaler import Scaling
from services.simulator.routing import Routing
from services.simulator.simulation import Scenario, play
from services.simulator.traffic import KINDS, Arrivals, Phase

HIGH, SWINGS = 10.0, (1, 2, 4, 8)  # requests a second; times that the low rate is lower
PERIODS_S = (600.0, 1800.0)
SECONDS, STATIC, LEAST = 3600.0, 32, 10
TARGET_MS = 0.1


def one(swing: int, period_s: float, scaled: bool, options: Options) -> dict[str, float]:
    seconds = 60.0 if options.smoke else SECONDS
    starts = [place * period_s / 2 for place in range(round(2 * seconds / period_s) or 1)]
    phases = [Phase(start, HIGH / (swing if place % 2 else 1)) for place, start in enumerate(starts)]
    scalings = {"expert": Scaling(least=LEAST, most=STATIC, target=TARGET_MS)} if scaled else {}
    played = play(
        Scenario(
            deployment=deployment(8, STATIC),
            arrivals=Arrivals(phases=phases, seconds=seconds, kind=KINDS["conversation"]).generate,
            seconds=seconds,
            routing=Routing(exponent=SKEW),
            scalings=scalings,
        ),
        options.seed,
    )
    found = played.summary(SLO)
    return {
        "goodput": found.goodput,
        "rate": found.rate,
        "itl_p99_ms": 1e3 * found.itl_p99,
        "ttft_p99_s": found.ttft_p99,
        "longest_stall_s": found.longest_stall,
        "expert_pod_hours": played.expert_pod_s / 3600.0,
        "experts_loaded": played.experts_loaded,
        "tables": played.tables,
    }


def run(options: Options) -> tuple[dict[str, Any], Sequence[Panel]]:
    rows: list[dict[str, Any]] = []
    swings, periods = (SWINGS[:1], PERIODS_S[:1]) if options.smoke else (SWINGS, PERIODS_S)
    with progress(2 * len(swings) * len(periods)) as show:
        for period_s in periods:
            for swing in swings:
                for scaled in (False, True):
                    row = {"period_s": period_s, "swing": swing, "autoscaled": scaled}
                    rows.append(row | one(swing, period_s, scaled, options))
                    show(len(rows))
    names = {(period_s, scaled): f"{'scaled' if scaled else 'static'}, {period_s / 60:.0f} min" for period_s in periods
             for scaled in (False, True)}  # fmt: skip
    panels = [
        Panel(
            title=title,
            across="high rate over low rate",
            up=up,
            lines={
                name: [(r["swing"], r[key]) for r in rows if (r["period_s"], r["autoscaled"]) == which]
                for which, name in names.items()
            },
            logarithmic=True,
        )
        for title, up, key in (
            ("expert pod-hours in an hour", "pod-hours", "expert_pod_hours"),
            ("p99 of the time between tokens", "ms", "itl_p99_ms"),
        )
    ]
    return {"rows": rows}, panels


if __name__ == "__main__":
    study("autoscaling", __doc__, run)
