"""`python -m bench.placement.straggler`: a step with one expert worker half as fast, placed by counts and by load.

A real engine over native sessions, 28 layers of 512 FFN experts in tiny widths. Its four expert workers take time for
each assignment, one of them twice as long, and compute nothing, as if each had a machine of its own. The load is what
they counted; both placements take turns.

Legend: L layers, F FFN experts of a layer; E experts of all layers; W workers.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import structlog
import torch
from caracal_proto.placement_pb2 import Endpoint, Table
from caracal_proto.placements import pack_layer

from bench import arguments, documents
from bench.checkpoints import console
from bench.contenders import prompts
from bench.main import RESULTS
from bench.many_workers import Contender
from bench.processes import PATH, REPO
from bench.report import machine
from bench.sweep.__main__ import checkpoint_of
from bench.sweep.axes import EXPERTS, LAYERS, Point
from services.attention_worker.model.model import load_model
from services.checkpoint.config import ModelConfig
from services.local.cores import cores_of
from services.process.cores import own_cores
from services.router.placement.load import Load
from services.router.placement.plan import balancedness
from services.router.placement.policy import WorkerView, place
from services.router.placement.table_view import TableView

NAME = "straggler.json"
WORKERS, STREAMS, TOKENS, PAGES = 4, 16, 48, 4
US, SLOW_US = 40.0, 80.0  # an assignment takes, at three workers and at the fourth


class TimedWorker:
    """One process of timed_worker."""

    def __init__(self, number: int, config: ModelConfig, us: float, log: Path) -> None:
        self.worker_id = f"expert-{number}"
        sizes = (config.hidden_size, config.num_layers, config.n_routed_experts)
        command = [sys.executable, "-m", "bench.placement.timed_worker", *map(str, sizes), str(us)]
        environment = os.environ | {"PYTHONPATH": PATH}
        with log.open("ab") as sink:
            self.child = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=sink,
                text=True,
                env=environment,
                cwd=REPO,
            )
        assert self.child.stdout
        self.endpoint = Endpoint(worker_id=self.worker_id, boot_id="b", address=self.child.stdout.readline().strip())

    def take(self) -> tuple[Any, float]:
        """Returns what it has counted since the last time: assignments, [L, F], and busy seconds."""
        assert self.child.stdin
        assert self.child.stdout
        self.child.stdin.write("\n")
        self.child.stdin.flush()
        found = json.loads(self.child.stdout.readline())
        return np.array(found["counts"], dtype=np.float64), found["busy_s"]

    def close(self) -> None:
        self.child.kill()
        self.child.wait()


@dataclass
class TimedWorkers:
    """All workers, with the placement that the engine begins with; as many_workers' Contender takes them."""

    each: Sequence[TimedWorker]
    view: TableView
    epoch: int = 0

    @property
    def pid(self) -> int:
        return self.each[0].child.pid

    def table(self, config: ModelConfig, sessions: int) -> Table:
        """The placement's table, of the next epoch."""
        assert sessions == len(self.each)
        self.epoch += 1
        placed_LFW = self.view.placed_EW.reshape(config.num_layers, config.n_routed_experts, -1)
        layers = [pack_layer(placed_FW.sum(axis=1), np.nonzero(placed_FW)[1]) for placed_FW in placed_LFW]
        return Table(epoch=self.epoch, workers=[worker.endpoint for worker in self.each], layers=layers)

    def load(self, seconds: float) -> Load:
        """The load that they have counted in so many seconds."""
        counts, busy = zip(*(worker.take() for worker in self.each), strict=True)
        rows = [each.sum() / busy_s for each, busy_s in zip(counts, busy, strict=True)]
        speed = {worker.worker_id: each / statistics.median(rows) for worker, each in zip(self.each, rows, strict=True)}
        return Load(sum(counts).ravel() / seconds, seconds, speed)


@contextmanager
def timed_workers(config: ModelConfig, directory: Path) -> Iterator[TimedWorkers]:
    with ExitStack() as stack:
        each = []
        for number in range(WORKERS):
            us = US if number else SLOW_US
            each.append(worker := TimedWorker(number, config, us, directory / f"expert-{number}.log"))
            stack.callback(worker.close)
        yield TimedWorkers(each, place(config.n_routed_experts, config.num_layers, views(), 1))


def views() -> list[WorkerView]:
    return [WorkerView(f"expert-{number}") for number in range(WORKERS)]


def measure(layers: int, experts: int, rounds: int, directory: Path) -> dict[str, Any]:
    """Step times of both placements, how even they are, and how many experts move from the one to the other."""
    checkpoint = checkpoint_of(Point(layers=layers, experts=experts))
    config = checkpoint.config
    batch = prompts(STREAMS, config.vocab_size)
    with timed_workers(config, directory) as workers:
        model = load_model(checkpoint, torch.bfloat16, lambda done, total: None)
        engine = Contender(model, workers, WORKERS, STREAMS, cores_of("attention", 1, 1, sorted(own_cores())), PAGES)
        try:
            engine.open(batch)
            workers.load(1.0)
            began_s = time.perf_counter()
            engine.turn(batch, TOKENS)
            load = workers.load(time.perf_counter() - began_s)
            by_counts = workers.view
            by_load = balanced(by_counts, load)
            step_ms: dict[str, list[float]] = {"by counts": [], "by load": []}
            for _ in range(rounds):
                for name, view in (("by counts", by_counts), ("by load", by_load)):
                    workers.view = view
                    engine.apply(workers.table(config, WORKERS))
                    engine.open(batch)
                    engine.turn(batch, TOKENS)
                    step_ms[name].append(engine.turns[-1].step_ms)
        finally:
            engine.close()
    moved = int((by_load.placed_EW & ~by_counts.placed_EW).sum())
    return {
        "machine": machine(),
        "layers": layers,
        "experts": experts,
        "us_per_assignment": [SLOW_US] + [US] * (WORKERS - 1),
        "streams": STREAMS,
        "speed": dict(load.speed),
        "moved": moved,
        "step_ms": {name: {"median": statistics.median(ms), "turns": ms} for name, ms in step_ms.items()},
        "balancedness": {"by counts": balancedness(by_counts, load), "by load": balancedness(by_load, load)},
    }


def balanced(view: TableView, load: Load) -> TableView:
    """The placement once nothing moves any more."""
    while True:
        after = place(view.experts, view.layers, views(), 1, view, load, moves=view.layers * view.experts)
        if after == view:
            return view
        view = after


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.placement.straggler", description=__doc__)
    parser.add_argument("--rounds", type=arguments.number(1), default=5, help="interleaved; of them medians")
    parser.add_argument("--out", type=arguments.folder, help=f"where {NAME} goes: beside the other results")
    parser.add_argument("--smoke", action="store_true", help="few experts, once; without --out nothing is written")
    given = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    directory = Path(tempfile.mkdtemp(prefix="caracal-straggler-"))
    console.print(f"logs in {directory}")
    layers, experts, rounds = (2, 32, 1) if given.smoke else (LAYERS, EXPERTS, given.rounds)
    found = measure(layers, experts, rounds, directory)
    print(documents.straggler_text(found))
    out = given.out or (None if given.smoke else RESULTS)
    if out is not None:
        (out / NAME).write_text(json.dumps(found, indent=1) + "\n")
        if out == RESULTS:
            documents.update()


if __name__ == "__main__":
    main()
