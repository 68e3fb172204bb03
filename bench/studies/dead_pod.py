"""`python -m bench.studies.dead_pod`: what one dead pod of 64 costs.

32 attention workers and 64 expert workers under Azure's conversations; one pod dies, or its machine falls silent, with
each expert on one worker and on two.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bench.studies.large import SKEW, SLO, deployment
from bench.studies.progress import progress
from bench.studies.study import Options, Panel, study
from services.simulator.faults import Fault, Kind
from services.simulator.routing import Routing
from services.simulator.simulation import Scenario, play
from services.simulator.traffic import KINDS, Arrivals, Phase

SECONDS, RATE, DIES_S = 120.0, 25.0, 30.0
DEATHS: dict[str, Kind | None] = {
    "nothing": None,
    "expert pod": "expert pod dies",
    "expert machine": "expert node lost",
    "attention pod": "attention pod dies",
    "attention machine": "attention node lost",
}


def one(kind: Kind | None, replicas: int, options: Options) -> dict[str, float]:
    seconds, rate = (4.0, 2.0) if options.smoke else (SECONDS, RATE)
    dies_s = 1.0 if options.smoke else DIES_S
    attention, experts = (2, 16) if options.smoke else (32, 64)
    arrivals = Arrivals(phases=[Phase(0.0, rate)], seconds=seconds, kind=KINDS["conversation"])
    faults = [Fault(at=dies_s, kind=kind, ordinal=1)] if kind else []
    played = play(
        Scenario(
            deployment=deployment(attention, experts, replicas=replicas, pods_per_node=1),
            arrivals=arrivals.generate,
            seconds=seconds,
            routing=Routing(exponent=SKEW),
            faults=faults,
        ),
        options.seed,
    )
    found = played.summary(SLO)
    stalled = [g for g in played.outcomes.generations if g.longest_gap > 0.25]
    return {
        "goodput": found.goodput,
        "rate": found.rate,
        "longest_stall_s": found.longest_stall,
        "stalled": len(stalled),
        "finished": found.ends.get("finished", 0),
        "requests": found.requests,
        "blocked_s": played.blocked_s,
        "experts_loaded": played.experts_loaded,
    }


def run(options: Options) -> tuple[dict[str, Any], Sequence[Panel]]:
    rows: list[dict[str, Any]] = []
    with progress(2 * len(DEATHS)) as show:
        for replicas in (1, 2):
            for name, kind in DEATHS.items():
                rows.append({"replicas": replicas, "dies": name} | one(kind, replicas, options))
                show(len(rows))
    by_replicas = {f"{n} replica{'s' * (n > 1)}": [row for row in rows if row["replicas"] == n] for n in (1, 2)}
    panels = [
        Panel(
            title=title,
            across="0 nothing, 1 expert pod, 2 its machine, 3 attention pod, 4 its machine",
            up=up,
            lines={name: [(place, row[key]) for place, row in enumerate(its)] for name, its in by_replicas.items()},
        )
        for title, up, key in (
            ("longest stall", "s", "longest_stall_s"),
            ("answers that stalled for 250 ms", "requests", "stalled"),
        )
    ]
    return {"rows": rows}, panels


if __name__ == "__main__":
    study("dead_pod", __doc__, run)
