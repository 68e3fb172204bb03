"""`python -m bench.placement` simulates placements under skewed loads; writes placement.json and placement.png.

LongCat-Flash's 28 layers of 512 FFN experts on 64 and on 8 workers, and the built-in model's recorded choices on 4.
Nothing is served: a layer takes as long as the worker with the most rows for its speed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from bench import documents
from bench.arguments import folder
from bench.main import RESULTS
from bench.placement import recorded
from bench.placement.contenders import by_counts, contenders
from bench.placement.plot import plot
from bench.placement.simulation import EXPERT_BYTES, WINDOW_S, Traffic, play, summary
from bench.placement.skews import SKEWS, Shape, zipf
from bench.report import machine
from services.router.placement.load import Load
from services.router.placement.policy import WorkerView, place

NAME = "placement.json"
RECORDED = "recorded from the built-in model"
TIMED_CALLS = 20


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is simulated. `moves`: experts that balancing may load in a minute; `extra`: more replicas of a layer."""

    minutes: int = 40
    first: int = 10  # figures are of the minutes from this one on
    layers: int = 28
    experts: int = 512
    workers: tuple[int, ...] = (64, 8)
    extra: int = 16
    moves: int = 256
    recorded_workers: int = 4
    recorded_extra: int = 2
    timed_workers: int = 128


SMOKE = Plan(minutes=8, first=4, layers=2, experts=32, workers=(8, 6), extra=4, timed_workers=8)


def run(plan: Plan) -> dict[str, Any]:
    """The summary of each contender, by number of workers, then by load."""
    shape = Shape(plan.minutes, plan.layers, plan.experts)
    found = {
        str(workers): {name: compare(skew(shape), workers, plan.extra, plan) for name, skew in SKEWS.items()}
        for workers in plan.workers
    }
    traffic = Traffic(recorded.counts()[: plan.minutes] / WINDOW_S, counted=True)
    few = compare(traffic, plan.recorded_workers, plan.recorded_extra, plan)
    return found | {str(plan.recorded_workers): {RECORDED: few}}


def call_ms(plan: Plan) -> dict[str, float]:
    """What a call of the policy takes on the most workers, with two replicas, while there is much to balance."""
    rows_LE = zipf(Shape(1, plan.layers, plan.experts)).rows_MLE[0]
    workers = [WorkerView(f"expert-{number}") for number in range(plan.timed_workers)]
    table = place(plan.experts, plan.layers, workers, 2)
    taken = []
    for _ in range(TIMED_CALLS):
        began = time.perf_counter()
        table = place(
            plan.experts, plan.layers, workers, 2, table, Load(rows_LE.ravel(), WINDOW_S), plan.extra, plan.moves
        )
        taken.append(1e3 * (time.perf_counter() - began))
    return {"median": statistics.median(taken), "most": max(taken)}


def compare(traffic: Traffic, workers: int, extra: int, plan: Plan) -> dict[str, Any]:
    _, layers, experts = traffic.rows_MLE.shape
    start_LEW = by_counts(layers, experts, workers)
    return {
        name: summary(play(traffic, workers, start_LEW, policy), plan.first)
        for name, policy in contenders(extra, plan.moves).items()
    }


def lines(found: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> list[str]:
    return [
        f"{workers} workers, {skew}, {name}: balancedness {its['balancedness']:.3f}, step {its['step']:.3f}, "
        f"{its['loaded']} experts loaded"
        for workers, skews in found.items()
        for skew, policies in skews.items()
        for name, its in policies.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.placement", description=__doc__)
    parser.add_argument("--out", type=folder, default=RESULTS, help="where placement.json and placement.png go")
    parser.add_argument("--smoke", action="store_true", help="a small model and few minutes; written only with --out")
    given = parser.parse_args()
    plan = SMOKE if given.smoke else Plan()
    found = run(plan)
    print("\n".join(lines(found)))
    if given.smoke and given.out == RESULTS:
        return
    about = {"machine": machine(), "plan": asdict(plan), "expert_bytes": EXPERT_BYTES, "call_ms": call_ms(plan)}
    (given.out / NAME).write_text(json.dumps(about | {"workers": found}, indent=1) + "\n")
    plot(found[str(plan.workers[0])] | found[str(plan.recorded_workers)], given.out / "placement.png")
    if given.out == RESULTS:
        documents.update()


if __name__ == "__main__":
    main()
