"""`python -m bench.studies.autoscaling`: when autoscaling of expert pods beats a static number.

16 attention workers; traffic is high for ten minutes and low for half an hour. Expert pods are 32, or as few as
hold the model, or between these what the chart's HorizontalPodAutoscaler makes of the time that calls wait.
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

HIGH, SWINGS = 16.0, (2, 4, 8)  # requests a second; times that the low rate is lower
HIGH_S, SECONDS = 600.0, 2400.0
ATTENTION, MOST, LEAST = 16, 32, 10
TARGET_MS = 0.05  # about one launch, as the chart's README advises
PODS = ("static, most", "static, least", "scaled")


def one(swing: int, pods: str, options: Options) -> dict[str, float]:
    seconds = 60.0 if options.smoke else SECONDS
    phases = [Phase(0.0, HIGH)]
    if not options.smoke:
        phases.append(Phase(HIGH_S, HIGH / swing))
    scalings = {"expert": Scaling(least=LEAST, most=MOST, target=TARGET_MS)} if pods == "scaled" else {}
    played = play(
        Scenario(
            deployment=deployment(ATTENTION, LEAST if pods == "static, least" else MOST),
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
    swings = SWINGS[:1] if options.smoke else SWINGS
    with progress(len(PODS) * len(swings)) as show:
        for swing in swings:
            for pods in PODS:
                rows.append({"swing": swing, "pods": pods} | one(swing, pods, options))
                show(len(rows))
    panels = [
        Panel(
            title=title,
            across="high rate over low rate",
            up=up,
            lines={name: [(row["swing"], row[key]) for row in rows if row["pods"] == name] for name in PODS},
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
