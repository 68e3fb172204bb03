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
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from bench.arguments import folder, number
from bench.checkpoints import console, prepare
from bench.load import BadAnswer, Stream, completion, follow
from bench.main import RESULTS
from bench.report import markdown, write
from bench.row import Row
from services.local.cluster import LocalCluster
from services.local.settings import LocalSettings

CONFIG, SMOKE_CONFIG = "bench-long", "bench-tiny"
MODEL, WORKERS = "bench", 2
WITH, WITHOUT = "pages are handed over", "computed again"
START_S, LEAVES_S = 600.0, 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """The load: streams of each worker, tokens of a prompt and of an answer, and how many of those come at least before
    the worker is to leave, and after it."""

    streams: int = 1
    prompt: int = 30_000
    answer: int = 8000
    around: int = 30


SMOKE = Sizes(prompt=700, answer=1300, around=10)


@asynccontextmanager
async def cluster(model: Path, migration: bool) -> AsyncIterator[LocalCluster]:
    environment = {"CARACAL_KV_MIGRATION": str(int(migration)), "CARACAL_MODEL_NAME": MODEL}
    local = LocalCluster(LocalSettings(model=model, port=0, attention=WORKERS, environment=environment))
    try:
        await local.start()
        await local.ready(START_S)
        running = asyncio.create_task(local.run())
        try:
            yield local
        finally:
            running.cancel()
            with suppress(asyncio.CancelledError):
                await running
    finally:
        await local.stop()


async def serving(local: LocalCluster, workers: int) -> None:
    """Waits until exactly so many attention workers serve, and none is left of others."""
    await local.membership.set_desired("attention", workers)
    async with asyncio.timeout(LEAVES_S):
        while True:
            records = await local.membership.workers("attention")
            names = [name for name in local.children if name.startswith("attention")]
            if sum(one.serving for one in records) == len(records) == len(names) == workers:
                return
            await asyncio.sleep(0.1)


async def stalls(local: LocalCluster, sizes: Sizes, vocabulary: int, seed: int) -> list[float]:
    """The longest time between two tokens of each stream, in which one of the two workers leaves."""
    rng, url = random.Random(seed), local.urls[0]
    await serving(local, WORKERS)
    streams, following = list[Stream](), list[asyncio.Task[None]]()
    for _ in range(WORKERS * sizes.streams):
        prompt = [rng.randrange(10, vocabulary) for _ in range(sizes.prompt)]
        streams.append(Stream(time.perf_counter()))
        body = completion(MODEL, prompt, sizes.answer)
        following.append(asyncio.create_task(follow(url, body, streams[-1])))

    def behind(tokens: list[int]) -> bool:
        """Whether a stream has had fewer tokens than these. Raises BadAnswer when one has ended."""
        if any(task.done() for task in following):
            raise BadAnswer("an answer ended before the worker had left: it is too short")
        return any(len(one.token_times) < count for one, count in zip(streams, tokens, strict=True))

    try:
        while behind([sizes.around] * len(streams)):  # noqa: ASYNC110 - tasks count
            await asyncio.sleep(0.02)
        before = [len(stream.token_times) for stream in streams]
        await serving(local, WORKERS - 1)
        while behind([count + sizes.around for count in before]):  # noqa: ASYNC110 - tasks count
            await asyncio.sleep(0.02)
    finally:
        for task in following:
            task.cancel()
        await asyncio.gather(*following, return_exceptions=True)
    return [
        max(b - a for a, b in pairwise(stream.token_times[count - 1 :]))
        for stream, count in zip(streams, before, strict=True)
    ]


async def measure(model: Path, sizes: Sizes, vocabulary: int, rounds: int) -> list[Row]:
    """Interleaved rounds; both clusters get the same prompts in a round, and other ones in the next."""
    found: dict[str, list[float]] = {WITH: [], WITHOUT: []}
    async with cluster(model, True) as one, cluster(model, False) as other:
        for round_ in range(rounds):
            for name, local in ((WITH, one), (WITHOUT, other))[:: 1 if round_ % 2 else -1]:
                console.print(f"round {round_ + 1} of {rounds}: {name}")
                found[name] += [max(await stalls(local, sizes, vocabulary, round_))]
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
