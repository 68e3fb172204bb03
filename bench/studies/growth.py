"""`python -m bench.studies.growth`: to 1,000 expert pods: what ends it, the control plane, the fan-out or the link.

A step of 32 sequences on each attention worker, half as many of these as expert pods, over two links; and what the
leader's policy and its table cost, in CPU time of the machine that runs the study.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from bench.studies.large import SKEW, deployment
from bench.studies.progress import progress
from bench.studies.study import Options, Panel, study
from services.membership.record import WorkerRecord
from services.router.placement.load import Load
from services.router.placement.policy import WorkerView, place
from services.router.placement.tables import to_table
from services.simulator.deployment import Deployment
from services.simulator.expert_pool import ExpertPool
from services.simulator.own_time import OwnTimes
from services.simulator.routing import Popularity, Routing
from services.simulator.step_time import StepTimes, StepWork

PODS = (16, 32, 64, 128, 256, 512, 1000)
LINKS = ("infiniband", "100gbe")
SEQUENCES, CONTEXT, EXTRA, MOVES, WINDOW_S = 32, 2000.0, 16, 256, 120.0


def step_parts(shaped: Deployment, pool: ExpertPool) -> dict[str, float]:
    """Milliseconds of a step, and of what it has of rows on the fullest link, messages, and launches,
    overlapped or not."""
    times, layers = StepTimes(shaped, pool), shaped.shape.layers
    times.callers, times.rows = shaped.attention, float(SEQUENCES)
    step = times.seconds(StepWork(SEQUENCES, 0, SEQUENCES * CONTEXT, 0.0))
    own = OwnTimes(shaped).of(SEQUENCES, pool.workers)
    ratio = shaped.attention / pool.workers
    bare = own.trip.messages * shaped.link.message_s
    fixed = 2 * (shaped.link.latency_s + bare)
    rows_s = own.trip.out_s(shaped.link, ratio) + own.trip.back_s(shaped.link, ratio) - fixed
    return {
        "step_ms": 1e3 * step,
        "link_ms": 1e3 * layers * pool.skew * rows_s,
        "skew": pool.skew,
        "messages_ms": 1e3 * layers * (own.messages + 2 * bare),
        "launch_ms": 1e3 * layers * pool.layer_s(shaped.attention * SEQUENCES),
        "messages": own.trip.messages,
    }


def control(shaped: Deployment, share_LE: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> dict[str, float]:
    """CPU seconds of the policy when a pod joins and when it balances, of the table, and the table's bytes."""
    shape, rate = shaped.shape, 1e6
    workers = [WorkerView(f"expert-{number}") for number in range(shaped.experts)]
    before = place(shape.experts, shape.layers, workers[:-1], 1)
    load = Load(rate * share_LE.ravel(), WINDOW_S)
    began = time.process_time()
    joined = place(shape.experts, shape.layers, workers, 1, before, load, EXTRA)
    join_s, began = time.process_time() - began, time.process_time()
    place(shape.experts, shape.layers, workers, 1, joined, load, EXTRA, MOVES)
    balance_s, began = time.process_time() - began, time.process_time()
    records = [WorkerRecord(worker_id=w.worker_id, role="expert", address="a:1", boot_id=w.worker_id) for w in workers]
    table = to_table(1, "study", joined, records)
    return {
        "join_cpu_s": join_s,
        "balance_cpu_s": balance_s,
        "table_cpu_s": time.process_time() - began,
        "table_bytes": len(table.SerializeToString()),
    }


def run(options: Options) -> tuple[dict[str, Any], Sequence[Panel]]:
    pods = PODS[:2] if options.smoke else PODS
    rows: list[dict[str, Any]] = []
    with progress(len(pods)) as show:
        for experts in pods:
            shape = deployment(1, 1).shape
            share_LE = Popularity(Routing(exponent=SKEW), shape.layers, shape.experts, options.seed).at(0.0)
            workers = [WorkerView(f"expert-{number}") for number in range(experts)]
            load = Load(1e6 * share_LE.ravel(), WINDOW_S)
            table = place(shape.experts, shape.layers, workers, 1)
            table = place(shape.experts, shape.layers, workers, 1, table, load, EXTRA, 1 << 20)
            row: dict[str, Any] = {"pods": experts}
            for wire in LINKS:
                shaped = deployment(experts // 2, experts, wire)
                row[wire] = step_parts(shaped, ExpertPool(shaped, table, share_LE))
            rows.append(row | {"control": control(shaped, share_LE)})
            show(len(rows))
    parts = ("step_ms", "link_ms", "messages_ms", "launch_ms")
    panels = [
        Panel(
            title=f"a step over {wire}",
            across="expert pods",
            up="ms",
            lines={part.removesuffix("_ms"): [(row["pods"], row[wire][part]) for row in rows] for part in parts},
            logarithmic=True,
        )
        for wire in LINKS
    ]
    seconds = {"a pod joins": "join_cpu_s", "balancing": "balance_cpu_s", "the table": "table_cpu_s"}
    panels.append(
        Panel(
            title="the leader, on this machine",
            across="expert pods",
            up="CPU seconds",
            lines={name: [(row["pods"], row["control"][key]) for row in rows] for name, key in seconds.items()},
            logarithmic=True,
        )
    )
    return {"rows": rows}, panels


if __name__ == "__main__":
    study("growth", __doc__, run)
