"""`python -m bench.drafts [--out FILE]`: inter-token latency with drafts that are right at a set rate, and without.

Clusters over gRPC on one machine, with and without a proxy that delays the experts' replies, take turns in every round;
figures are medians. Greedy answers are the same with and without drafts, so those of a first run say which drafts are
right. Everything else is as it is served: the draft runs for each token, and is left away where a step is full.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import urllib.request
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench import arguments, documents
from bench.checkpoints import prepare
from bench.contenders import MODEL, prompts
from bench.drafts.worker import KNOWN, RATE
from bench.load import BadAnswer, completion, run_load
from bench.main import RESULTS
from bench.metrics import scrape
from bench.processes import Cluster, cluster
from bench.report import machine
from bench.row import goal_of

NAME = "drafts.json"
GOAL = "≥ 1.6"
SECONDS = 120  # for an answer to be had


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is measured."""

    config: str
    rate: float  # the share of drafts that are right, each on its own
    delay_ms: float
    drafts: Sequence[int]  # tokens drafted of an answer; beside none
    streams: Sequence[int]
    new_tokens: int
    rounds: int


@dataclass(frozen=True)
class Turn:
    """One load on one cluster."""

    itl_ms: float
    step_ms: float
    tokens_per_step: float  # of a stream
    accepted: float  # share of the drafted tokens


def answers(target: Cluster, batch: list[list[int]], new_tokens: int) -> list[list[int]]:
    """Each prompt with its answer, as ids."""
    found = []
    for prompt in batch:
        body = completion(MODEL, prompt, new_tokens) | {"stream": False, "return_token_ids": True}
        del body["stream_options"]
        request = urllib.request.Request(
            f"{target.url}/v1/completions", json.dumps(body).encode(), {"content-type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=SECONDS) as answer:
            found.append(prompt + json.load(answer)["choices"][0]["token_ids"])
    return found


def turn(target: Cluster, batch: list[list[int]], new_tokens: int) -> Turn:
    """Sends the prompts at once. Raises BadAnswer."""
    before = scrape(target)
    load = asyncio.run(run_load(target.url, MODEL, batch, new_tokens))
    after = scrape(target)

    def more(name: str) -> float:
        return after[f"{name}_total"] - before[f"{name}_total"]

    itl_ms = load.inter_token_seconds * 1e3
    drafted = more("caracal:spec_decode_num_draft_tokens")
    accepted = more("caracal:spec_decode_num_accepted_tokens")
    per_step = 1 + accepted / (len(batch) * new_tokens - accepted)
    return Turn(itl_ms, itl_ms * per_step, per_step, accepted / drafted if drafted else 0.0)


def measure(plan: Plan, folder: Path) -> dict[str, Any]:
    """Turns of every cluster, by streams, delay and drafts."""
    checkpoint = prepare(plan.config, drafts=True)
    batch = prompts(max(plan.streams), checkpoint.config.vocab_size)
    known = folder / "known.json"
    delays = {"0": None, f"{plan.delay_ms:g}": plan.delay_ms / 1e3}
    with ExitStack() as stack:

        def started(drafts: int, name: str, delay_s: float | None) -> Cluster:
            place = folder / f"{name}-{drafts}"
            rigged = (
                {"attention_module": "bench.drafts.worker", KNOWN: str(known), RATE: str(plan.rate)} if drafts else {}
            )
            settings: dict[str, Any] = {"link": "grpc", "delay_s": delay_s, "CARACAL_DRAFT": str(drafts), **rigged}
            return stack.enter_context(cluster(checkpoint.path, place, **settings))

        targets = {(0, name): started(0, name, delay_s) for name, delay_s in delays.items()}
        known.write_text(json.dumps(answers(targets[0, "0"], batch, plan.new_tokens)))
        targets |= {(n, name): started(n, name, delay_s) for n in plan.drafts for name, delay_s in delays.items()}
        return {str(streams): _rounds(targets, batch[:streams], plan) for streams in plan.streams}


def _rounds(targets: dict[tuple[int, str], Cluster], batch: list[list[int]], plan: Plan) -> dict[str, Any]:
    turns: dict[tuple[int, str], list[Turn]] = {key: [] for key in targets}
    for target in targets.values():
        turn(target, batch, plan.new_tokens)
    for _ in range(plan.rounds):
        for key, target in targets.items():
            turns[key].append(turn(target, batch, plan.new_tokens))
    found: dict[str, Any] = {}
    for (drafts, delay), each in turns.items():
        medians = {name: statistics.median(asdict(one)[name] for one in each) for name in asdict(each[0])}
        found.setdefault(delay, {})[str(drafts)] = {"median": medians, "turns": [asdict(one) for one in each]}
    for by_drafts in found.values():
        without = by_drafts["0"]["median"]["itl_ms"]
        for one in by_drafts.values():
            one["faster"] = without / one["median"]["itl_ms"]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure what drafts gain.")
    parser.add_argument("--config", default="bench-90m", help="a config of bench/config")
    parser.add_argument("--rate", type=float, default=0.8, help="the share of drafts that are right")
    parser.add_argument("--delay-ms", type=float, default=2.0, help="of the experts' replies")
    parser.add_argument("--drafts", type=arguments.number(1, 3), nargs="+", default=[1, 2, 3])
    parser.add_argument("--streams", type=arguments.number(1, 1024), nargs="+", default=[1, 8, 32])
    parser.add_argument("--new-tokens", type=arguments.number(8), default=96)
    parser.add_argument("--rounds", type=arguments.number(1), default=9)
    parser.add_argument("--out", type=arguments.file, default=RESULTS / NAME, help="a JSON file for the figures")
    args = vars(parser.parse_args())
    out: Path = args.pop("out")
    plan = Plan(**args)
    with tempfile.TemporaryDirectory(prefix="caracal-drafts-") as folder:
        try:
            found = measure(plan, Path(folder))
        except BadAnswer as error:
            sys.exit(str(error))
    goal = found[str(plan.streams[0])][f"{plan.delay_ms:g}"]["1" if 1 in plan.drafts else str(plan.drafts[0])]["faster"]
    result = {
        "machine": machine(),
        "plan": asdict(plan),
        "faster": goal,
        "goal": GOAL,
        "met": goal_of(goal, GOAL),
        "streams": found,
    }
    for streams, by_delay in found.items():
        for delay, by_drafts in by_delay.items():
            for drafts, one in by_drafts.items():
                median = one["median"]
                print(
                    f"{streams:>4} streams, +{delay} ms, {drafts} drafts: {median['itl_ms']:7.2f} ms a token, "
                    f"{median['step_ms']:7.2f} a step, {median['tokens_per_step']:.2f} tokens a step, "
                    f"{100 * median['accepted']:3.0f} % accepted, {one['faster']:.2f} times as fast"
                )
    out.write_text(json.dumps(result, indent=1) + "\n")
    documents.update()


if __name__ == "__main__":
    main()
