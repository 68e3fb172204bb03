"""`python -m bench.prefix_cache` measures what cached prefixes save, on two clusters of this machine that take turns.

One has the prefix cache, the other has none. Dialogues of many turns, each of which sends everything before it again;
and clients that ask at once after one long system prompt. Times to the first token, throughput, and how much of what
could be cached was.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.arguments import folder, number
from bench.checkpoints import console, prepare
from bench.contenders import MODEL
from bench.load import BadAnswer, Stream, completion, follow
from bench.main import RESULTS
from bench.processes import Cluster, cluster
from bench.report import markdown, write
from bench.row import Row

CONFIG, SMOKE_CONFIG = "bench-90m-16k", "bench-tiny"
WITH, WITHOUT = "with the cache", "without"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """The load: dialogues that run at once, their turns, and tokens of a question and an answer; then the clients of
    one system prompt, its tokens, and theirs."""

    dialogues: int = 4
    turns: int = 20
    question: int = 60
    answer: int = 60
    clients: int = 32
    system: int = 4096
    own: int = 50
    reply: int = 32


SMOKE = Sizes(dialogues=2, turns=3, question=70, answer=10, clients=4, system=300, own=20, reply=4)


@dataclass(slots=True)
class Found:
    """What one load gave on one cluster. `could`: tokens of prompts that had been there before."""

    first_s: list[float] = field(default_factory=list)  # to the first token
    seconds: float = 0.0
    generated: int = 0
    prompt: int = 0
    cached: int = 0
    could: int = 0

    def add(self, streams: list[Stream], seconds: float, could: int) -> None:
        self.first_s += [stream.token_times[0] - stream.started for stream in streams]
        self.seconds += seconds
        self.generated += sum(stream.tokens for stream in streams)
        self.prompt += sum(stream.prompt for stream in streams)
        self.cached += sum(stream.cached for stream in streams)
        self.could += could


Prompt = Callable[[int], list[int]]  # so many random tokens
Measure = Callable[[Cluster, Sizes, Prompt, Found], Coroutine[Any, Any, None]]


async def ask(target: Cluster, prompt: list[int], tokens: int) -> Stream:
    """One answer, with its ids. Raises BadAnswer."""
    stream = Stream(time.perf_counter())
    await follow(target.url, completion(MODEL, prompt, tokens) | {"return_token_ids": True}, stream)
    if not len(stream.ids) == stream.tokens == tokens:
        raise BadAnswer(f"asked for {tokens} tokens, got {stream.tokens} with {len(stream.ids)} ids")
    return stream


async def dialogues(target: Cluster, sizes: Sizes, prompt: Prompt, found: Found) -> None:
    """Every turn sends all that was said before; that could all be cached."""

    async def talk(question: list[list[int]]) -> tuple[list[Stream], int]:
        said: list[int] = []
        streams, could = [], 0
        for each in question:
            could += len(said)
            streams.append(await ask(target, [*said, *each], sizes.answer))
            said += [*each, *streams[-1].ids]
        return streams, could

    questions = [[prompt(sizes.question) for _ in range(sizes.turns)] for _ in range(sizes.dialogues)]
    began = time.perf_counter()
    talks = await asyncio.gather(*map(talk, questions))
    seconds = time.perf_counter() - began
    for number_, (streams, could) in enumerate(talks):
        found.add(streams, 0.0 if number_ else seconds, could)


async def system_prompt(target: Cluster, sizes: Sizes, prompt: Prompt, found: Found) -> None:
    """All clients ask at once; all but the first could have the system prompt from the cache."""
    system = prompt(sizes.system)
    asked = [[*system, *prompt(sizes.own)] for _ in range(sizes.clients)]
    began = time.perf_counter()
    streams = await asyncio.gather(*(ask(target, each, sizes.reply) for each in asked))
    found.add(list(streams), time.perf_counter() - began, (sizes.clients - 1) * sizes.system)


LOADS: dict[str, Measure] = {"dialogues": dialogues, "one system prompt": system_prompt}


def compare(clusters: dict[str, Cluster], sizes: Sizes, vocabulary: int, rounds: int) -> list[Row]:
    """Runs every load on both clusters in every round, with new prompts; they take turns at being first."""
    found = {(load, name): Found() for load in LOADS for name in clusters}
    for round_ in range(rounds):
        for load, measure in LOADS.items():
            for name in list(clusters)[:: 1 if round_ % 2 else -1]:
                rng = random.Random(f"{load} {round_}")

                def prompt(length: int, rng: random.Random = rng) -> list[int]:
                    return [rng.randrange(10, vocabulary) for _ in range(length)]

                console.print(f"round {round_ + 1} of {rounds}: {load}, {name}")
                asyncio.run(measure(clusters[name], sizes, prompt, found[load, name]))
    about = {
        "dialogues": f"{sizes.dialogues} dialogues of {sizes.turns} turns",
        "one system prompt": f"{sizes.clients} clients with one system prompt of {sizes.system} tokens",
    }
    return [row for (load, name), each in found.items() for row in rows_of(each, about[load], name, load)]


def rows_of(found: Found, section: str, column: str, load: str) -> list[Row]:
    """The lines of a table. Goals are those of the cache."""
    first_ms = [1000 * seconds for seconds in found.first_s]
    values = {
        "time to the first token, p50": (statistics.median(first_ms), "ms"),
        "time to the first token, worst": (max(first_ms), "ms"),
        "tokens generated": (found.generated / found.seconds, "/s"),
        "tokens of prompts": (found.prompt / found.seconds, "/s"),
        "cached ÷ what could be": (100 * found.cached / found.could, "%"),
    }
    key = "with" if column == WITH else "without"
    return [
        Row(what, value, unit, section=section, column=column, key=f"{load}/{key}/{what}")
        for what, (value, unit) in values.items()
    ]


def run(sizes: Sizes, rounds: int, config: str) -> list[Row]:
    directory = Path(tempfile.mkdtemp(prefix="caracal-bench-"))
    console.print(f"logs in {directory}")
    checkpoint = prepare(config)
    with (
        cluster(checkpoint.path, directory / "with", CARACAL_PREFIX_CACHE="1") as cached,
        cluster(checkpoint.path, directory / "without") as plain,
    ):
        return compare({WITH: cached, WITHOUT: plain}, sizes, checkpoint.config.vocab_size, rounds)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.prefix_cache", description=__doc__)
    parser.add_argument("--rounds", type=number(1), default=3, help="interleaved rounds")
    parser.add_argument("--out", type=folder, default=RESULTS, help="where prefix_cache.json and prefix_cache.md go")
    parser.add_argument("--smoke", action="store_true", help="every part once and small: nothing is written")
    given = parser.parse_args()
    rows = run(SMOKE, 1, SMOKE_CONFIG) if given.smoke else run(Sizes(), given.rounds, CONFIG)
    if not given.smoke:
        write(rows, given.out, "prefix_cache")
    print(markdown(rows))


if __name__ == "__main__":
    main()
