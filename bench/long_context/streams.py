"""Inter-token latency of running streams while long prompts arrive, with chunks of a number of tokens and by cost.

The running streams use the gRPC API, which sends every token at once: over HTTP a random model's half characters are
held back until they have a text.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import grpc.aio
from caracal_proto import attention_pb2, router_pb2
from caracal_proto.router_pb2_grpc import RouterStub

from bench.contenders import MODEL
from bench.load import Stream, completion, follow
from bench.processes import Cluster
from bench.row import Row
from services.attention_worker.settings import CPU_ITL_MS

NO_BOUND_MS = 3_600_000  # chunks are then as long as a step takes tokens, whatever they cost
STEADY_TOKENS = 20  # of each stream, before anything is measured
ENDLESS_TOKENS = 60_000
FIRST_WORD = 400  # the model's words w400, w401, ... are one token each


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """The load of one measurement. `context`: tokens of the running streams' prompts."""

    streams: int = 8
    context: int = 1000
    prompt: int = 30_000
    prompts: int = 2
    quiet_s: float = 5.0


@dataclass(slots=True)
class Latencies:
    """Seconds between tokens of running streams, and until the first token of long prompts."""

    quiet: list[float] = field(default_factory=list)
    beside: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)

    def add(self, other: Latencies) -> None:
        self.quiet += other.quiet
        self.beside += other.beside
        self.first += other.first


def percentile(values: list[float], percent: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * percent / 100))]


def gaps(streams: list[Stream], begin: float, end: float) -> list[float]:
    """The times between two tokens of a stream that end within the window."""
    return [
        after - before
        for stream in streams
        for before, after in zip(stream.token_times, stream.token_times[1:], strict=False)
        if begin < after <= end
    ]


async def follow_tokens(stub: Any, word: int, length: int, stream: Stream) -> None:
    """Generates without end after a prompt of `length` times one word, and records the time of every token."""
    sampling = attention_pb2.Sampling(max_tokens=ENDLESS_TOKENS, ignore_eos=True)
    async for event in stub.Generate(router_pb2.TextRequest(prompt=f"w{word}" * length, sampling=sampling)):
        stream.token_times += [time.perf_counter()] * len(event.tokens)


async def measure(cluster: Cluster, sizes: Sizes, vocabulary: int, seed: int) -> Latencies:
    """Runs the streams, first alone, then while prompts arrive one after another; ends them. Raises BadAnswer."""
    rng = random.Random(seed)

    def prompt(length: int) -> list[int]:
        return [rng.randrange(10, vocabulary) for _ in range(length)]

    running = [Stream(time.perf_counter()) for _ in range(sizes.streams)]
    channel = grpc.aio.insecure_channel(cluster.grpc)
    stub = RouterStub(channel)
    tasks = [
        asyncio.create_task(follow_tokens(stub, FIRST_WORD + number, sizes.context, stream))
        for number, stream in enumerate(running)
    ]
    try:
        while any(len(stream.token_times) < STEADY_TOKENS for stream in running):
            await asyncio.wait(tasks, timeout=0.05, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                if task.done():
                    task.result()
        result, quiet_from = Latencies(), time.perf_counter()
        await asyncio.sleep(sizes.quiet_s)
        began = time.perf_counter()
        for _ in range(sizes.prompts):
            long = Stream(time.perf_counter())
            await follow(cluster.url, completion(MODEL, prompt(sizes.prompt), 1), long)
            result.first.append(long.token_times[0] - long.started)
        ended = time.perf_counter()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await channel.close()
    result.quiet, result.beside = gaps(running, quiet_from, began), gaps(running, began, ended)
    return result


def compare(clusters: Mapping[str, Cluster], sizes: Sizes, vocabulary: int, rounds: int) -> list[Row]:
    """Measures every cluster in each round; percentiles are over the tokens of all rounds."""
    pooled = {name: Latencies() for name in clusters}
    p99s: dict[str, list[float]] = {name: [] for name in clusters}
    for number in range(rounds):
        for name, cluster in clusters.items():
            measured = asyncio.run(measure(cluster, sizes, vocabulary, number))
            pooled[name].add(measured)
            p99s[name].append(1e3 * percentile(measured.beside, 99))
    return [row for name, all_rounds in pooled.items() for row in rows(name, sizes, all_rounds, p99s[name])]


def rows(name: str, sizes: Sizes, measured: Latencies, p99s: list[float]) -> list[Row]:
    """The table's rows for one way to divide prompts."""
    quiet, beside = measured.quiet, measured.beside
    bound = name == "by cost"
    p99 = 1e3 * percentile(beside, 99)
    detail = f"{len(beside)} tokens; p99 of the rounds: " + ", ".join(f"{value:.0f}" for value in p99s)
    long = f"{sizes.streams} streams beside prompts of {sizes.prompt} tokens, chunks {name}: ITL"
    alone = f"{sizes.streams} streams alone, chunks {name}: ITL"
    met = p99 <= CPU_ITL_MS if bound else None
    first = [f"{value:.1f}" for value in measured.first]
    return [
        Row(f"{alone} p50", 1e3 * statistics.median(quiet), "ms"),
        Row(f"{alone} p99", 1e3 * percentile(quiet, 99), "ms"),
        Row(f"{long} p50", 1e3 * statistics.median(beside), "ms"),
        Row(f"{long} p99", p99, "ms", f"≤ {CPU_ITL_MS:g}" if bound else "", met, detail),
        Row(f"{long} longest", 1e3 * max(beside), "ms"),
        Row(
            f"time to first token of {sizes.prompt} tokens beside {sizes.streams} streams, chunks {name}",
            statistics.median(measured.first),
            "s",
            detail="each: " + ", ".join(first),
        ),
    ]
