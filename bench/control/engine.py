"""An engine whose tables change under load: how long a step stands still, and what many sessions take on both sides."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import torch
from caracal_proto.placement_pb2 import Table
from caracal_proto.placements import layer_of

from bench.compiled import CannotMeasure
from bench.contenders import prompts
from bench.expert_process import ExpertProcess, expert_process
from bench.many_workers import Contender
from services.attention_worker.engine.sequence import Ending, TokenOut
from services.attention_worker.model.model import load_model
from services.checkpoint.reader import Checkpoint
from services.local.cores import cores_of
from services.process.cores import own_cores

PAGES, TOKENS = 64, 4000  # of a stream
AFTER_S, BETWEEN_S = 0.25, 0.5  # how long after a table a step may stand still for it, and between two tables


class StepTimes:
    """The callback of one stream: when each of its steps ended."""

    def __init__(self) -> None:
        self.at_s: list[float] = []

    def __call__(self, tokens: list[TokenOut], ending: Ending | None) -> None:
        self.at_s += [time.perf_counter()] * len(tokens)


def measure_engine(
    checkpoint: Checkpoint, directory: Path, *, workers: int, streams: int, tables: int
) -> dict[str, Any]:
    """Streams of one engine over so many expert workers, all played by one process, while tables come.

    Raises CannotMeasure.
    """
    directory.mkdir(parents=True, exist_ok=True)
    cores = cores_of("attention", 1, 1, sorted(own_cores()))
    with expert_process(checkpoint, directory, workers) as played:
        model = load_model(checkpoint, torch.bfloat16, lambda done, total: None)
        processes = {"attention": psutil.Process(), "expert": psutil.Process(played.pid)}
        engine = Contender(model, played, workers, streams, cores, PAGES)
        before = {role: _resources(process) for role, process in processes.items()}
        try:
            batch = prompts(streams, checkpoint.config.vocab_size)
            engine.open(batch)
            after = {role: _resources(process) for role, process in processes.items()}
            stalls_ms, step_ms = _stalls(engine, played, checkpoint, batch, tables)
        finally:
            engine.close()
    return {
        "workers": workers,
        "streams": streams,
        "step_ms": step_ms,
        "stall_ms": {"median": statistics.median(stalls_ms), "max": max(stalls_ms), "all": stalls_ms},
        "more_for_sessions": {
            role: {name: after[role][name] - before[role][name] for name in after[role]} for role in after
        },
    }


def _resources(process: psutil.Process) -> dict[str, int]:
    return {"fds": process.num_fds(), "rss_bytes": process.memory_info().rss, "threads": process.num_threads()}


def _stalls(
    engine: Contender, played: ExpertProcess, checkpoint: Checkpoint, batch: Sequence[list[int]], tables: int
) -> tuple[list[float], float]:
    """By how much the longest step beside each table is above those before it, and their median; in milliseconds."""
    times, config = StepTimes(), checkpoint.config
    for prompt in batch[1:]:
        engine.submit(prompt, TOKENS, lambda tokens, ending: None)
    engine.submit(batch[0], TOKENS, times)
    applied_s = []
    for number in range(tables):
        time.sleep(BETWEEN_S)
        table = rotated(played.table(config, engine.workers), config.n_routed_experts, number + 1)
        applied_s.append(time.perf_counter())
        engine.apply(table)
    time.sleep(BETWEEN_S)
    if not times.at_s or times.at_s[-1] < applied_s[-1] + AFTER_S:
        raise CannotMeasure("the streams ended before the last table came")
    steps = [(a, b - a) for a, b in pairwise(times.at_s)]
    longest, typical = [], []
    for at_s in applied_s:
        typical.append(statistics.median(took for begun, took in steps if at_s - BETWEEN_S < begun < at_s - took))
        longest.append(max(took for begun, took in steps if begun + took >= at_s and begun <= at_s + AFTER_S))
    stalls = [1e3 * (most - usual) for most, usual in zip(longest, typical, strict=True)]
    return stalls, 1e3 * statistics.median(typical)


def rotated(table: Table, experts: int, number: int) -> Table:
    """The table after `number` changes, each of which moves an eighth of the experts to the next worker."""
    count = len(table.workers)
    moved = [[(expert + (expert // count + number) % 8 // 7) % count] for expert in range(experts)]
    return Table(epoch=table.epoch + number, workers=table.workers, layers=[layer_of(moved)] * len(table.layers))
