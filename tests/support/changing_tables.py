"""Placements that change all the time, as no leader changes them."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from functools import partial

from caracal_proto import placement_pb2
from support.expert_workers import Worker, place, wanted

from services.checkpoint.reader import Checkpoint
from services.router.dispatch.moe_dispatcher import MoEDispatcher


def apply_tables(
    checkpoint: Checkpoint, three: list[Worker], dispatcher: MoEDispatcher, count: int, done: threading.Event
) -> None:
    """Applies random tables of three workers, in random order on the workers and the dispatcher; then sets `done`."""
    config, rng = checkpoint.config, random.Random(0)
    try:
        for epoch in range(1, count + 1):
            chosen = {
                (layer, expert): rng.sample(range(3), rng.randint(1, 3))
                for layer in range(config.num_layers)
                for expert in range(config.n_routed_experts)
            }
            table = place(epoch, checkpoint, [worker.endpoint for worker in three], partial(_replicas, chosen))
            for worker in three:
                mine = wanted(table, worker.endpoint.worker_id)
                worker.state.prepare(epoch, mine, lambda done, total: None)
            steps: list[Callable[[placement_pb2.Table], object]] = [worker.state.commit for worker in three]
            steps.append(dispatcher.apply)
            for step in rng.sample(steps, len(steps)):
                step(table)
                time.sleep(rng.choice((0, 0, 0.002)))
    finally:
        done.set()


def _replicas(chosen: dict[tuple[int, int], list[int]], layer: int, expert: int) -> list[int]:
    return chosen[layer, expert]
