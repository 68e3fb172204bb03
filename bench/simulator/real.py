"""Plays a schedule on a real cluster of this machine, with an open load: requests are sent when they are due."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections.abc import Sequence
from contextlib import suppress
from itertools import pairwise

from bench.contenders import MODEL
from bench.load import BadAnswer, Stream, completion, follow
from bench.processes import Cluster
from bench.simulator.schedules import Schedule
from services.simulator.generation import Generation
from services.simulator.histogram import Histogram
from services.simulator.outcomes import percentile

GRACE_S = 60.0  # for answers after the last request


def play(target: Cluster, schedule: Schedule, requests: Sequence[Generation], vocabulary: int) -> Histogram:
    """Fills the requests with what their clients see; returns the times between tokens.

    A worker of the role that `dies` is killed when it is to.
    """
    return asyncio.run(_play(target, schedule, requests, vocabulary))


def idle_ttft_s(target: Cluster, prompt: int, vocabulary: int, turns: int) -> float:
    """The time to the first token of one request alone, the median of so many."""
    found = []
    for _ in range(turns):
        one = Stream(0.0)
        asyncio.run(follow(target.url, completion(MODEL, _ids(prompt, vocabulary), 2), one))
        found.append(one.token_times[0] - one.started)
    return percentile(found, 50)


async def _play(target: Cluster, schedule: Schedule, requests: Sequence[Generation], vocabulary: int) -> Histogram:
    began, itl = time.perf_counter(), Histogram()
    tasks = []
    if schedule.dies:
        tasks.append(asyncio.ensure_future(_kill(target.pids[f"{schedule.dies}_worker"][-1], schedule.dies_at)))
    for one in requests:
        body = completion(MODEL, _ids(one.prompt, vocabulary), one.answer)
        await asyncio.sleep(max(0.0, began + one.arrived - time.perf_counter()))
        tasks.append(asyncio.ensure_future(_ask(target, one, body, began, itl)))
    _, late = await asyncio.wait(tasks, timeout=GRACE_S)
    for task in late:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return itl


async def _ask(target: Cluster, one: Generation, body: dict[str, object], began: float, itl: Histogram) -> None:
    stream = Stream(0.0)
    one.end = "open"
    with suppress(BadAnswer, OSError):
        await follow(target.url, body, stream)
    one.tokens = stream.tokens
    if stream.token_times:
        one.first, one.last = stream.token_times[0] - began, stream.token_times[-1] - began
        gaps = [later - earlier for earlier, later in pairwise(stream.token_times)]
        one.longest_gap = max(gaps, default=0.0)
        for gap in gaps:
            itl.add(gap)
    one.finish("finished" if stream.tokens == one.answer else "failed", time.perf_counter() - began)


async def _kill(pid: int, at: float) -> None:
    await asyncio.sleep(at)
    os.kill(pid, signal.SIGKILL)


def _ids(count: int, vocabulary: int) -> list[int]:
    chooser = random.Random(count)
    return [chooser.randrange(10, vocabulary) for _ in range(count)]
