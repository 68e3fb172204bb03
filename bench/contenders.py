"""Who is measured: Caracal over HTTP, Caracal in one process, and baselines; all with the same prompts.

They take turns in every round, in another order each time, so that none always runs after the same one.
"""

from __future__ import annotations

import asyncio
import random
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from bench.cpu_time import CpuTime
from bench.load import Load, run_load
from bench.processes import BaselineProcess, Cluster

PROMPT_TOKENS, NEW_TOKENS = 32, 64
MODEL = "bench"


@dataclass(frozen=True, slots=True)
class Speed:
    """Tokens per second of all streams together: from request to last token, and after the first token."""

    whole: float
    decode: float


Contender = Callable[[list[list[int]]], Speed]


def prompts(count: int, vocabulary: int, length: int = PROMPT_TOKENS) -> list[list[int]]:
    generator = random.Random(0)
    return [[generator.randrange(10, vocabulary) for _ in range(length)] for _ in range(count)]


def load(target: Cluster, batch: list[list[int]], new_tokens: int = NEW_TOKENS, cpu: CpuTime | None = None) -> Load:
    """Sends the prompts at once over HTTP and follows all streams to their ends. Raises BadAnswer."""
    if cpu is None:
        return asyncio.run(run_load(target.url, MODEL, batch, new_tokens))
    found = asyncio.run(run_load(target.url, MODEL, batch, new_tokens, cpu.start))
    cpu.stop(found.decode_steps)
    return found


def over_http(target: Cluster, cpu: CpuTime | None = None) -> Contender:
    def measure(batch: list[list[int]]) -> Speed:
        found = load(target, batch, NEW_TOKENS, cpu)
        return Speed(found.tokens_per_second, len(batch) / found.inter_token_seconds)

    return measure


def of_baseline(baseline: BaselineProcess) -> Contender:
    def measure(batch: list[list[int]]) -> Speed:
        answer = baseline.ask(batch, NEW_TOKENS)
        return Speed(answer["tokens"] / answer["seconds"], len(batch) / answer["inter_token_s"])

    return measure


def take_turns(contenders: Mapping[str, Contender], batch: list[list[int]], rounds: int) -> dict[str, list[Speed]]:
    """The speeds of every round, by contender."""
    found: dict[str, list[Speed]] = {name: [] for name in contenders}
    order = list(contenders)
    for _ in range(rounds):
        for name in order:
            found[name].append(contenders[name](batch))
        order = order[1:] + order[:1]
    return found


def median(speeds: Sequence[Speed]) -> Speed:
    return Speed(statistics.median(one.whole for one in speeds), statistics.median(one.decode for one in speeds))


def streams_of(count: int) -> str:
    return f"{count} stream{'s' * (count > 1)}"
