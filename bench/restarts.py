"""`python -m bench.restarts` kills processes of a cluster under streams: how long until they serve again, by phase.

The weights of a process that starts again are in the page cache. A stream's stall is the longest time between two of
its tokens, as its client sees them; every answer has to come whole. Spare processes, as of `caracal up --spares N`, are
all there before each kill; each of the counts given has a cluster of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median

from bench.arguments import folder, number
from bench.checkpoints import console, prepare
from bench.load import Stream, completion, follow
from bench.local_clusters import MODEL, local_cluster, serving, until_all_serve, until_spares_wait
from bench.main import RESULTS
from bench.report import markdown, write
from bench.row import Row, shown
from services.local.cluster import LocalCluster

CONFIG, SMOKE_CONFIG = "bench-long", "bench-tiny"
KILLED = {  # what is killed at once
    "an attention worker": ("attention-0",),
    "an expert worker": ("expert-0",),
    "both attention workers": ("attention-0", "attention-1"),
    "both expert workers": ("expert-0", "expert-1"),
    "a router": ("router-1",),
}
PHASES = ("noticed", "imports", "model", "listening", "serving")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """The load: streams, tokens of a prompt and of an answer, and how many come before a kill and after it."""

    streams: int = 2
    prompt: int = 2000
    answer: int = 1000
    around: int = 30


SMOKE = Sizes(prompt=100, answer=400, around=10)


def start_of(local: LocalCluster, name: str) -> dict[str, float]:
    """The parts of a process's last start, as its log has them."""
    lines = local.children[name].log.read_text().splitlines()
    found = [line for line in lines if line.startswith("{") and json.loads(line).get("event") == "started"]
    return {key: value for key, value in json.loads(found[-1]).items() if key.endswith("_s")}


async def kill(local: LocalCluster, names: tuple[str, ...]) -> dict[str, float]:
    """Kills processes; returns the seconds of each phase until all of them serve again: those of the slowest."""
    before = await serving(local)
    pids = {name: local.children[name].pid for name in names}
    began = time.monotonic()
    for pid in pids.values():
        os.kill(pid, signal.SIGKILL)
    waiting = set(names)
    while waiting:
        waiting = {name for name in waiting if getattr(local.children.get(name), "pid", pids[name]) == pids[name]}
        await asyncio.sleep(0.01)
    noticed = time.monotonic() - began
    await until_all_serve(local, before, names)
    whole = time.monotonic() - began
    starts = [start_of(local, name) for name in names]
    model = [start.get("model_s", start.get("checkpoint_s", start.get("assets_s", 0.0))) for start in starts]
    phases = {
        "noticed": noticed,
        "imports": max(start["imports_s"] for start in starts),
        "model": max(model),
        "listening": max(start["listening_s"] for start in starts),
    }
    return phases | {"serving": max(0.0, whole - sum(phases.values())), "in all": whole}


class Callers:
    """Each asks again as soon as its answer has come, until the end of the block. Raises BadAnswer there."""

    def __init__(self, url: str, prompts: list[list[int]], answer: int) -> None:
        self._url, self._prompts, self._answer = url, prompts, answer
        self.streams: list[list[Stream]] = [[] for _ in prompts]

    async def __aenter__(self) -> Callers:
        self._tasks = [asyncio.create_task(self._run(number)) for number in range(len(self._prompts))]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        ended = await asyncio.gather(*self._tasks, return_exceptions=True)
        for error in ended:
            if isinstance(error, Exception):
                raise error

    async def _run(self, number: int) -> None:
        while True:
            stream = Stream(time.perf_counter())
            self.streams[number].append(stream)
            await follow(self._url, completion(MODEL, self._prompts[number], self._answer), stream)

    async def more(self, tokens: int) -> None:
        """Waits until each has had so many more."""
        wanted = [self._had(number) + tokens for number in range(len(self.streams))]
        while any(self._had(number) < one for number, one in enumerate(wanted)):
            if any(task.done() for task in self._tasks):
                return  # with an error, which the block's end raises
            await asyncio.sleep(0.02)

    def _had(self, number: int) -> int:
        return sum(len(stream.token_times) for stream in self.streams[number])

    def longest_stall_s(self, since: float) -> float:
        """From a request or a token to the next token, of what ended after `since`."""
        times = [[stream.started, *stream.token_times] for streams in self.streams for stream in streams]
        return max(b - a for each in times for a, b in pairwise(each) if b > since)


async def measure_one(
    local: LocalCluster, names: tuple[str, ...], sizes: Sizes, vocabulary: int, rng: random.Random
) -> dict[str, float]:
    """One kill under streams. Raises BadAnswer when one of them does not come whole."""
    prompts = [[rng.randrange(10, vocabulary) for _ in range(sizes.prompt)] for _ in range(sizes.streams)]
    await until_spares_wait(local)
    async with Callers(local.urls[0], prompts, sizes.answer) as callers:
        await callers.more(sizes.around)
        began = time.perf_counter()
        phases = await kill(local, names)
        await callers.more(sizes.around)
    return phases | {"longest stall": callers.longest_stall_s(began)}


async def measure(model: Path, sizes: Sizes, vocabulary: int, rounds: int, spares: int) -> list[Row]:
    """Every kind of kill in a cluster with so many spares."""
    found: dict[str, list[dict[str, float]]] = {what: [] for what in KILLED}
    rng = random.Random(0)
    async with local_cluster(model, spares) as local:
        await until_all_serve(local, {}, ())
        for round_ in range(rounds):
            for what, names in KILLED.items():
                console.print(f"{spares} spares, round {round_ + 1} of {rounds}: {what}")
                found[what].append(await measure_one(local, names, sizes, vocabulary, rng))
    section = (
        f"{spares} spare{'s' * (spares != 1)}: killed under {sizes.streams} streams of {sizes.prompt} tokens, "
        f"two workers of each role; seconds, medians of {rounds}"
    )
    return [
        Row(
            phase,
            median(one[phase] for one in found[what]),
            "s",
            detail=shown([one[phase] for one in found[what]]),
            section=section,
            column=what,
            key=f"{spares} spares/{what}/{phase}",
        )
        for what in KILLED
        for phase in (*PHASES, "in all", "longest stall")
    ]


def run(config: str, sizes: Sizes, rounds: int, spares: Sequence[int], out: Path | None) -> list[Row]:
    """All counts of spares, one after another; what there is so far is written after each."""
    checkpoint, rows = prepare(config), list[Row]()
    for count in dict.fromkeys(spares):
        rows += asyncio.run(measure(checkpoint.path, sizes, checkpoint.config.vocab_size, rounds, count))
        if out is not None:
            write(rows, out, "restarts")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.restarts", description=__doc__)
    parser.add_argument("--rounds", type=number(1), default=3, help="kills of each kind, with each count of spares")
    parser.add_argument(
        "--spares", type=number(0), nargs="+", default=[0, 1, 2], help="processes that wait to take over"
    )
    parser.add_argument("--out", type=folder, default=RESULTS, help="where restarts.json and restarts.md go")
    parser.add_argument("--smoke", action="store_true", help="every part once and small: nothing is written")
    given = parser.parse_args()
    if given.smoke:
        rows = run(SMOKE_CONFIG, SMOKE, 1, given.spares[:1], None)
    else:
        rows = run(CONFIG, Sizes(), given.rounds, given.spares, given.out)
    print(markdown(rows))


if __name__ == "__main__":
    main()
