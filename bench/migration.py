"""`python -m bench.migration` measures how long streams stand still when their attention worker leaves.

Two clusters of this machine take turns. In both, half of the streams move to the other worker; in one their pages go
with them, in the other they are computed again. Times between two tokens of a stream, as its client sees them.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import time
import urllib.request
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from bench.arguments import folder, number
from bench.checkpoints import console, prepare
from bench.load import BadAnswer, Stream, completion, follow
from bench.local_clusters import running as running_cluster
from bench.main import RESULTS
from bench.report import markdown, write
from bench.row import Row
from services.local.cluster import LocalCluster
from services.local.settings import LocalSettings

CONFIG, SMOKE_CONFIG = "bench-long", "bench-tiny"
MODEL, WORKERS = "bench", 2
WITH, WITHOUT = "pages are handed over", "computed again"
LEAVES_S = 600.0
KNOWN, ATTEMPTS, MIGRATED = (
    "caracal_gateway_attention_workers",
    "caracal_gateway_attempts_total",
    "caracal_kv_migrations_total",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """The load: streams of each worker, tokens of a prompt and of an answer, and how many of those come at least before
    the worker is to leave, and after it."""

    streams: int = 1
    prompt: int = 30_000
    answer: int = 8000
    around: int = 30


SMOKE = Sizes(prompt=700, answer=1300, around=10)


def cluster(model: Path, migration: bool) -> AbstractAsyncContextManager[LocalCluster]:
    environment = {"CARACAL_KV_MIGRATION": str(int(migration)), "CARACAL_MODEL_NAME": MODEL}
    return running_cluster(LocalSettings(model=model, port=0, attention=WORKERS, environment=environment))


async def serving(local: LocalCluster, workers: int) -> None:
    """Waits until exactly so many attention workers serve, none is left of others, and the router knows it."""
    await local.membership.set_desired("attention", workers)
    async with asyncio.timeout(LEAVES_S):
        while True:
            records = await local.membership.workers("attention")
            names = [name for name in local.children if name.startswith("attention")]
            listed = sum(one.serving for one in records) == len(records) == len(names) == workers
            if listed and await sample(local, "router", KNOWN) == workers:
                return
            await asyncio.sleep(0.1)


async def sample(local: LocalCluster, role: str, name: str) -> int:
    """The sum of a metric over the processes of a role."""

    def read(address: str) -> bytes:
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as page:
            return bytes(page.read())

    pages = [await asyncio.to_thread(read, one.metrics_address) for one in await local.membership.workers(role)]
    lines = [line for page in pages for line in page.decode().splitlines()]
    return sum(int(float(line.rsplit(" ", 1)[1])) for line in lines if line.startswith((f"{name} ", name + "{")))


async def running(local: LocalCluster, expected: list[int]) -> None:
    """Waits until the attention workers run so many sequences each. Raises BadAnswer when they do not."""
    found = list[int]()
    for _ in range(50):
        records = await local.membership.workers("attention", counts=True)
        found = [int(one.stats["running"]) for one in records]
        if found == expected:
            return
        await asyncio.sleep(0.1)
    raise BadAnswer(f"the attention workers run {found} of the streams and not {expected}")


async def moved(local: LocalCluster, attempts: int, expected: int) -> None:
    """Waits until so many streams have begun anew since there were `attempts`: a worker that leaves serves them until
    then. Raises BadAnswer."""
    for _ in range(100):
        found = await sample(local, "router", ATTEMPTS) - attempts
        if found == expected:
            return
        await asyncio.sleep(0.1)
    raise BadAnswer(f"{found} streams went to another worker and not {expected}")


class Following:
    """Streams that are read until the end of the block."""

    def __init__(self, url: str, prompts: list[list[int]], answer: int) -> None:
        self.streams = [Stream(time.perf_counter()) for _ in prompts]
        self._tasks = [
            asyncio.create_task(follow(url, completion(MODEL, prompt, answer), stream))
            for prompt, stream in zip(prompts, self.streams, strict=True)
        ]

    async def __aenter__(self) -> Following:
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def tokens(self) -> list[int]:
        return [len(stream.token_times) for stream in self.streams]

    async def until(self, tokens: list[int]) -> None:
        """Waits until each stream has had so many tokens. Raises BadAnswer when one has ended."""
        while any(had < wanted for had, wanted in zip(self.tokens, tokens, strict=True)):
            if any(task.done() for task in self._tasks):
                raise BadAnswer("an answer ended before the worker had left: it is too short")
            await asyncio.sleep(0.02)


async def stalls(local: LocalCluster, sizes: Sizes, vocabulary: int, seed: int) -> tuple[list[float], int]:
    """The longest time between two tokens of each stream, in which one of the two workers leaves; how many of them
    took their pages with them. Raises BadAnswer when not exactly that worker's have moved."""
    rng = random.Random(seed)
    await serving(local, WORKERS)
    prompts = [[rng.randrange(10, vocabulary) for _ in range(sizes.prompt)] for _ in range(WORKERS * sizes.streams)]
    async with Following(local.urls[0], prompts, sizes.answer) as streams:
        await streams.until([sizes.around] * len(prompts))
        await running(local, [sizes.streams] * WORKERS)
        before, attempts = streams.tokens, await sample(local, "router", ATTEMPTS)
        migrated = await sample(local, "attention", MIGRATED)
        await serving(local, WORKERS - 1)
        await moved(local, attempts, sizes.streams)
        await streams.until([count + sizes.around for count in before])
        migrated = await sample(local, "attention", MIGRATED) - migrated
    gaps = [
        max(b - a for a, b in pairwise(stream.token_times[count - 1 :]))
        for stream, count in zip(streams.streams, before, strict=True)
    ]
    return gaps, migrated


async def measure(model: Path, sizes: Sizes, vocabulary: int, rounds: int) -> list[Row]:
    """Interleaved rounds; both clusters get the same prompts in a round, and other ones in the next."""
    found: dict[str, list[float]] = {WITH: [], WITHOUT: []}
    async with cluster(model, True) as one, cluster(model, False) as other:
        for round_ in range(rounds):
            for name, local in ((WITH, one), (WITHOUT, other))[:: 1 if round_ % 2 else -1]:
                console.print(f"round {round_ + 1} of {rounds}: {name}")
                gaps, migrated = await stalls(local, sizes, vocabulary, round_)
                if migrated != (sizes.streams if name == WITH else 0):
                    raise BadAnswer(f"the pages of {migrated} streams were handed over: {name}")
                found[name].append(max(gaps))
    section = f"{WORKERS * sizes.streams} streams of {sizes.prompt} tokens, one of {WORKERS} attention workers leaves"
    return [
        Row(f"longest stall, {what}", of(found[name]), "s", section=section, column=name, key=f"{key}/{what}")
        for name, key in ((WITH, "with"), (WITHOUT, "without"))
        for what, of in (("median of rounds", statistics.median), ("worst", max))
    ]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.migration", description=__doc__)
    parser.add_argument("--rounds", type=number(1), default=3, help="interleaved rounds")
    parser.add_argument("--streams", type=number(1, 16), default=Sizes().streams, help="streams of each worker")
    parser.add_argument("--out", type=folder, default=RESULTS, help="where migration.json and migration.md go")
    parser.add_argument("--smoke", action="store_true", help="every part once and small: nothing is written")
    given = parser.parse_args()
    checkpoint = prepare(SMOKE_CONFIG if given.smoke else CONFIG)
    sizes = SMOKE if given.smoke else Sizes(streams=given.streams)
    rows = asyncio.run(
        measure(checkpoint.path, sizes, checkpoint.config.vocab_size, 1 if given.smoke else given.rounds)
    )
    if not given.smoke:
        write(rows, given.out, "migration")
    print(markdown(rows))


if __name__ == "__main__":
    main()
