"""`python -m bench.corruption [--smoke]`: how long until what computes or stores wrongly is found, by kind.

In clusters with the settings that are shipped, under streams: weights of expert and attention workers that are wrong
now and then or stay so, pages of the cache, messages between processes. And in one process, where millions of calls
take minutes: one call in a thousand with a flipped bit, and calls without any, of which none may be taken for wrong.
The file is written after each part and keeps those that other runs have measured.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from bench import arguments
from bench.checkpoints import console, prepare
from bench.corruption import in_a_cluster, in_process, on_the_way
from bench.corruption.cases import CASES
from bench.main import RESULTS
from bench.report import machine
from bench.stalls.faults import NotInjected
from services.checkpoint.reader import Checkpoint

CONFIG = "bench-tiny"
SWITCH_S = 0.0005  # as attention workers have it
OUT = RESULTS / "corruption.json"
FORMAT = 2
GOAL_CLEAN = 1_000_000  # calls without a false alarm
IN_PROCESS, CLEAN = "in-process", "clean"
ON_THE_WAY = ("pages", "wire-expert", "wire-attention")
PARTS = (*CASES, *ON_THE_WAY, IN_PROCESS, CLEAN)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Trials in clusters and in one process; calls without a fault; the seconds of damage to messages; shares of the
    calls in one process that are computed again, and that have a flipped bit; further variables of clusters."""

    trials: int = 3
    runs: int = 10
    clean: int = GOAL_CLEAN
    wire_s: float = 30.0
    limit_s: float = in_a_cluster.LIMIT_S
    share: float = in_process.SHARE
    faults: float = in_process.FAULTS
    more: tuple[tuple[str, str], ...] = ()


# What is shipped takes minutes to find it.
SMOKE = Plan(
    trials=1,
    runs=1,
    clean=200,
    wire_s=3.0,
    limit_s=60.0,
    share=0.2,
    faults=0.05,
    more=(("CARACAL_SHADOW_SHARE", "1"), ("CARACAL_SHADOW_ANSWERS", "1"), ("CARACAL_GOLDEN_SHARE", "0.1")),
)


def measure(part: str, checkpoint: Checkpoint, plan: Plan) -> dict[str, Any]:
    """One part. Raises NotInjected."""
    works: dict[str, Callable[[], dict[str, Any]]] = {
        "pages": lambda: asyncio.run(on_the_way.pages(checkpoint.path, plan.trials)),
        "wire-expert": lambda: asyncio.run(on_the_way.wire(checkpoint.path, plan.wire_s, "expert")),
        "wire-attention": lambda: asyncio.run(on_the_way.wire(checkpoint.path, plan.wire_s, "attention")),
        IN_PROCESS: lambda: _in_process(checkpoint, plan),
        CLEAN: lambda: _clean(checkpoint, plan),
    }
    works |= {
        name: partial(in_a_cluster.measure, name, case, checkpoint.path, plan.trials, dict(plan.more), plan.limit_s)
        for name, case in CASES.items()
    }
    return works[part]()


def _in_process(checkpoint: Checkpoint, plan: Plan) -> dict[str, Any]:
    found = in_process.detection(checkpoint, plan.runs, plan.share, plan.faults)
    settings = {"share": plan.share, "faults": plan.faults, "busy": in_process.BUSY}
    return settings | {
        "calls_per_s": in_process.CALLS_PER_S,
        "kinds": found,
        "met": all(each["met"] for each in found.values()),
    }


def _clean(checkpoint: Checkpoint, plan: Plan) -> dict[str, Any]:
    """A false alarm ends the process."""
    found = in_process.clean(checkpoint, plan.clean)
    return found | {"goal_calls": GOAL_CLEAN, "met": found["calls"] >= GOAL_CLEAN}


def read(out: Path) -> dict[str, Any]:
    """The parts that a file has; none if it is of another format, or there is none."""
    try:
        stored = json.loads(out.read_text())
    except FileNotFoundError:
        return {}
    parts: dict[str, Any] = stored["parts"] if stored.get("format") == FORMAT else {}
    return parts


def run(parts: list[str], plan: Plan, out: Path | None) -> dict[str, Any]:
    """Measures parts one after another; returns those of this run."""
    checkpoint, found = prepare(CONFIG), dict[str, Any]()
    for part in dict.fromkeys(parts):
        console.print(part)
        try:
            found[part] = {"machine": machine()} | measure(part, checkpoint, plan)
        except (NotInjected, TimeoutError) as error:
            found[part] = {"machine": machine(), "failed": str(error) or "it took too long", "met": False}
        if out is not None:
            kept = read(out) | found
            stored = {"format": FORMAT, "parts": {name: kept[name] for name in PARTS if name in kept}}
            out.write_text(json.dumps(stored, indent=1) + "\n")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.corruption", description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="a few seconds of each part, written only to --out")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="to measure")
    parser.add_argument("--trials", type=arguments.number(1, 1000), default=Plan().trials, help="of each in clusters")
    parser.add_argument("--runs", type=arguments.number(1, 1000), default=Plan().runs, help="of each in one process")
    parser.add_argument("--clean", type=arguments.number(1, 10**9), default=Plan().clean, help="calls without a fault")
    parser.add_argument("--out", type=arguments.file, help=f"a JSON file for the figures, {OUT.name} if not given")
    given = parser.parse_args()
    torch.set_num_threads(1)
    sys.setswitchinterval(SWITCH_S)
    plan = SMOKE if given.smoke else Plan(trials=given.trials, runs=given.runs, clean=given.clean)
    found = run(given.parts, plan, given.out or (None if given.smoke else OUT))
    print(json.dumps(found, indent=1))
    if any("failed" in part for part in found.values()):
        sys.exit(1)


if __name__ == "__main__":
    main()
