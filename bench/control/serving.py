"""A whole cluster at the real shape: its start, what it costs idle, and one stream."""

from __future__ import annotations

import asyncio
import statistics
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil

from bench.contenders import MODEL, prompts
from bench.control.processes import HealthProbe
from bench.load import run_load
from bench.processes import Cluster, cluster
from services.checkpoint.reader import Checkpoint

PAUSE_S = 2.0


def measure_serving(
    checkpoint: Checkpoint, directory: Path, *, workers: int, tokens: int, rounds: int, idle_s: float
) -> dict[str, Any]:
    """One router, one attention worker and so many expert workers."""
    began_s = time.perf_counter()
    with cluster(checkpoint.path, directory, experts=workers) as target:
        found: dict[str, Any] = {"workers": workers, "ready_s": time.perf_counter() - began_s}
        time.sleep(PAUSE_S)
        found["idle_cores"] = {role: _idle(pids, idle_s) for role, pids in target.pids.items()}
        found["health_ms"] = {"idle": _health(target, idle_s)}
        batch = prompts(1, checkpoint.config.vocab_size)
        asyncio.run(run_load(target.url, MODEL, batch, tokens))
        gaps_ms = []
        for _ in range(rounds):
            (stream,) = asyncio.run(run_load(target.url, MODEL, batch, tokens)).streams
            gaps_ms.append([1e3 * (b - a) for a, b in pairwise(stream.token_times)])
        found["inter_token_ms"] = {
            "p50": statistics.median(statistics.median(gaps) for gaps in gaps_ms),
            "max": statistics.median(max(gaps) for gaps in gaps_ms),
            "max_of_all": max(max(gaps) for gaps in gaps_ms),
        }
    return found


def _idle(pids: list[int], seconds: float) -> float:
    """The share of a core that these processes use together."""
    processes = [psutil.Process(pid) for pid in pids]

    def spent() -> float:
        return sum(sum(process.cpu_times()[:2]) for process in processes)

    before, began_s = spent(), time.perf_counter()
    time.sleep(seconds)
    return (spent() - before) / (time.perf_counter() - began_s)


def _health(target: Cluster, seconds: float) -> dict[str, float]:
    with HealthProbe(int(target.url.rsplit(":", 1)[1])) as probe:
        time.sleep(seconds)
    return probe.result()
