"""`python -m bench.shadow_cost [--smoke]`: what all checks of computation together cost the streams.

Two clusters of this machine, each with two attention and two expert workers that all have every expert, take turns. One
is as it is shipped: it computes a share of the calls to expert workers and of the answers again, and golden tokens and
rows, and compares the weights in memory with their checksums. In the other all of that is off. A turn lasts some
seconds, in which clients repeat their requests; what is lost is that of two turns one after the other, and CPU is that
of the cluster's processes for each token. The cluster whose turn it is not has no requests, and its CPU is measured,
since one that is idle goes on checking.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from bench import arguments
from bench.checkpoints import console, prepare
from bench.contenders import MODEL
from bench.intervals import CONFIDENCE, interval, middle_mean, within
from bench.load import Stream, completion, follow
from bench.metrics import summed
from bench.processes import Cluster, cluster
from bench.report import machine
from services.membership.redis import Membership

CONFIG, SMOKE_CONFIG = "bench-90m", "bench-tiny"
GOAL = 0.02  # of the throughput
WITH, WITHOUT = "with", "without"
OFF = {
    "CARACAL_SHADOW_SHARE": "0",
    "CARACAL_SHADOW_ANSWERS": "0",
    "CARACAL_GOLDEN_SHARE": "0",
    "CARACAL_SCRUB_S": "0",
}
# What says that the checks were made, by role.
COUNTED = {
    "attention": ("caracal_shadow_calls", "caracal_shadow_dropped", "caracal_golden_rounds", "caracal_golden_seconds"),
    "router": ("caracal_shadow_answers",),
}
PAUSE_S = 1.0  # after a turn, for answers that are still computed again
OUT = Path(__file__).parent / "results" / "shadow-cost.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """`streams`: those of each comparison. Tokens of prompts and answers; seconds of a turn, and those before them."""

    streams: tuple[int, ...] = (8, 32)
    rounds: int = 24
    seconds: float = 10.0
    first_s: float = 1.0
    prompt: int = 32
    answer: int = 256


SMOKE = Plan(streams=(4,), rounds=2, seconds=1.0, first_s=0.5)


@dataclass(frozen=True, slots=True)
class Turn:
    """Tokens per second of all streams, CPU ms of a token, and of a core the share that the other cluster used."""

    tokens_per_s: float
    cpu_ms: float
    idle_cores: float


def cpu_s(target: Cluster) -> float:
    """CPU time of a cluster's processes since they started."""
    times = [psutil.Process(pid).cpu_times() for pids in target.pids.values() for pid in pids]
    return sum(each.user + each.system for each in times)


async def _repeat(url: str, body: dict[str, object], streams: list[Stream]) -> None:
    while True:
        streams.append(Stream(time.perf_counter()))
        await follow(url, body, streams[-1])


async def take_turn(own: Cluster, other: Cluster, prompts: Sequence[list[int]], plan: Plan) -> Turn:
    """Raises BadAnswer."""
    streams = list[Stream]()
    bodies = [completion(MODEL, prompt, plan.answer) for prompt in prompts]
    tasks = [asyncio.create_task(_repeat(own.url, body, streams)) for body in bodies]
    await asyncio.sleep(plan.first_s)
    since, used_s, idle_s = time.perf_counter(), cpu_s(own), cpu_s(other)
    ended, _ = await asyncio.wait(tasks, timeout=plan.seconds, return_when=asyncio.FIRST_COMPLETED)
    for task in ended:
        task.result()  # only with an error does one end
    until, used_s, idle_s = time.perf_counter(), cpu_s(own) - used_s, cpu_s(other) - idle_s
    for task in tasks:
        task.cancel()
    for task in tasks:
        with suppress(asyncio.CancelledError):
            await task
    tokens = sum(since <= at < until for stream in streams for at in stream.token_times)
    await asyncio.sleep(PAUSE_S)
    return Turn(tokens / (until - since), 1000 * used_s / tokens, idle_s / (until - since))


def compare(clusters: Mapping[str, Cluster], count: int, vocabulary: int, plan: Plan) -> dict[str, Any]:
    """Both clusters with so many streams, in turns; each round the other one is first."""
    chooser = random.Random(0)
    prompts = [[chooser.randrange(10, vocabulary) for _ in range(plan.prompt)] for _ in range(count)]
    turns: dict[str, list[Turn]] = {WITH: [], WITHOUT: []}
    order = [WITH, WITHOUT]
    for round_ in range(plan.rounds):
        console.print(f"{count} streams, round {round_ + 1} of {plan.rounds}")
        for name in order:
            (other,) = (clusters[each] for each in clusters if each != name)
            turns[name].append(asyncio.run(take_turn(clusters[name], other, prompts, plan)))
        order.reverse()
    both = list(zip(turns[WITH], turns[WITHOUT], strict=True))
    lost = _summary([1 - one.tokens_per_s / two.tokens_per_s for one, two in both])
    return {
        "lost": lost,
        "goal": GOAL,
        "met": within((lost["low"], lost["high"]), GOAL),
        "more_cpu": _summary([one.cpu_ms / two.cpu_ms - 1 for one, two in both]),
        "idle_cores": {
            WITH: round(middle_mean([one.idle_cores for one in turns[WITHOUT]]), 4),
            WITHOUT: round(middle_mean([one.idle_cores for one in turns[WITH]]), 4),
        },
        "turns": {name: [_rounded(one) for one in each] for name, each in turns.items()},
    }


def _summary(shares: Sequence[float]) -> dict[str, float]:
    low, high = interval(shares)
    return {"share": round(middle_mean(shares), 4), "low": round(low, 4), "high": round(high, 4)}


def _rounded(turn: Turn) -> dict[str, float]:
    return {name: round(value, 4) for name, value in asdict(turn).items()}


async def counted(target: Cluster) -> dict[str, float]:
    """What the cluster's processes have counted of their checks."""
    membership = Membership(target.redis_url)
    try:
        return await summed(membership, COUNTED)
    finally:
        await membership.close()


def run(config: str, plan: Plan) -> dict[str, Any]:
    """Starts both clusters and compares them at each number of streams."""
    checkpoint, directory = prepare(config), Path(tempfile.mkdtemp(prefix="caracal-shadow-"))
    clusters: dict[str, Cluster] = {}
    with ExitStack() as stack:
        for name in (WITH, WITHOUT):
            variables = {"CARACAL_REPLICAS": "2"} | (OFF if name == WITHOUT else {})
            started = cluster(checkpoint.path, directory / name, attention=2, experts=2, everywhere=variables)
            clusters[name] = stack.enter_context(started)
        streams = {str(count): compare(clusters, count, checkpoint.config.vocab_size, plan) for count in plan.streams}
        checks = {name: asyncio.run(counted(one)) for name, one in clusters.items()}
    return {
        "machine": machine(),
        "turn_s": plan.seconds,
        "confidence": CONFIDENCE,
        "off": OFF,
        "checks": checks,
        "streams": streams,
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.shadow_cost", description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="short turns on a tiny model, written only to --out")
    parser.add_argument("--streams", type=arguments.number(1, 512), nargs="+", default=Plan().streams)
    parser.add_argument("--rounds", type=arguments.number(2, 1000), default=Plan().rounds, help="turns of each cluster")
    parser.add_argument("--seconds", type=arguments.number(1, 600), default=int(Plan().seconds), help="of a turn")
    parser.add_argument("--out", type=arguments.file, help=f"a JSON file for the figures, {OUT.name} if not given")
    given = parser.parse_args()
    plan = Plan(streams=tuple(given.streams), rounds=given.rounds, seconds=given.seconds)
    result = run(SMOKE_CONFIG, SMOKE) if given.smoke else run(CONFIG, plan)
    print(json.dumps(result, indent=1))
    if (out := given.out or (None if given.smoke else OUT)) is not None:
        out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
