"""`python -m training.agentic.bench --url URL`: pass^1 and pass^4 on held-out tasks, by axis of difficulty.

The agent is whatever model an OpenAI-compatible endpoint serves, asked with ordinary tool calling. Every other trial is
a request with another seed. A task counts as solved when its end state is right, whatever was said.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from training.agentic.casting import Cast, add_role_option, cast, parse_roles
from training.agentic.difficulty import Difficulty
from training.agentic.endpoint import Endpoint, EndpointAgent, EndpointError
from training.agentic.episode import play
from training.agentic.passes import Tried, by_axis, mean_passes
from training.agentic.task import Task
from training.arguments import named_failures, number
from training.data.dialogues import HELD_OUT
from training.data.words.vocabulary import SEEN, UNSEEN_ALL

WORDS = {"seen": SEEN, "unseen": UNSEEN_ALL}
REPLY_TOKENS = 96


def held_out_tasks(maker: Cast, seed: int, count: int) -> list[tuple[Task, str]]:
    """Returns tasks whose difficulties go round all combinations, in an order of the seed; words are seen or unseen."""
    every = list(Difficulty.all())
    Random(f"caracal bench {seed}").shuffle(every)
    kinds = list(WORDS)
    return [
        (maker.task(f"held out {seed} {n}", every[n // 2 % len(every)], WORDS[kinds[n % 2]]), kinds[n % 2])
        for n in range(count)
    ]


def measure(
    endpoint: Endpoint,
    maker: Cast,
    tasks: list[tuple[Task, str]],
    trials: int,
    temperature: float,
    parallel: int,
    done: Callable[[], None] = lambda: None,
) -> list[Tried]:
    """Plays every task so many times. Raises EndpointError when a role's endpoint fails."""

    def one(number: int) -> Tried:
        task, words = tasks[number]
        agents = [EndpointAgent(endpoint, f"{task.name} {t}", temperature, REPLY_TOKENS) for t in range(trials)]
        episodes = [play(task, agent, maker.roles) for agent in agents]
        done()
        successes = sum(episode.success for episode in episodes)
        return Tried(
            task.name, task.difficulty, words, successes, trials, tuple(episode.ending for episode in episodes)
        )

    with ThreadPoolExecutor(parallel) as pool:
        return list(pool.map(one, range(len(tasks))))


def summary(tried: list[Tried]) -> dict[str, Any]:
    """Returns the passes of all tasks and by axis, and how episodes ended."""
    powers = (1, tried[0].trials)
    endings = Counter(ending for one in tried for ending in one.endings)
    return {**mean_passes(tried, powers), "by_axis": by_axis(tried, powers), "endings": dict(endings.most_common(8))}


def show(results: dict[str, dict[str, Any]], console: Console) -> None:
    """Prints results of several models side by side."""
    first = next(iter(results.values()))
    powers = [key for key in first if key.startswith("pass")]
    table = Table("axis", "level", "tasks", *(f"{power} {name}" for name in results for power in powers))

    def add(axis: str, level: str, rows: list[dict[str, Any]]) -> None:
        shares = [f"{row[power]:.1%}" for row in rows for power in powers]
        table.add_row(axis, level, str(rows[0]["tasks"]), *shares)

    for axis, levels in first["by_axis"].items():
        for level in levels:
            add(axis, level, [result["by_axis"][axis][level] for result in results.values()])
    add("all", "", list(results.values()))
    console.print(table)
    for name, result in results.items():
        console.print(f"{name}: episodes ended {result['endings']}", markup=False)


def settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """Returns what decides a result beside the endpoint."""
    return {key: getattr(arguments, key) for key in ("tasks", "trials", "temperature", "seed")}


def bench(url: str, maker: Cast, arguments: argparse.Namespace, console: Console) -> dict[str, Any]:
    """Returns the result of one endpoint. Raises EndpointError."""
    endpoint, begun = Endpoint.open(url), time.perf_counter()
    tasks = held_out_tasks(maker, arguments.seed, arguments.tasks)
    with Progress(console=console) as progress:
        bar = progress.add_task(f"{endpoint.model} at {endpoint.url}", total=len(tasks))
        tried = measure(
            endpoint,
            maker,
            tasks,
            arguments.trials,
            arguments.temperature,
            arguments.parallel,
            lambda: progress.advance(bar),
        )
    return {
        "model": endpoint.model,
        **summary(tried),
        "settings": settings(arguments),
        "seconds": round(time.perf_counter() - begun, 1),
        "date": datetime.now(UTC).date().isoformat(),
    }


def add_options(parser: argparse.ArgumentParser, tasks: int) -> None:
    parser.add_argument(
        "--tasks", type=number(1), default=tasks, help="held-out tasks; 120 have every difficulty twice"
    )
    parser.add_argument("--trials", type=number(1), default=4, help="of each task: k of pass^k")
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--parallel", type=number(1), default=16, help="episodes in flight")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m training.agentic.bench", description=__doc__.splitlines()[0])
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="of the agent: URL or URL#MODEL")
    parser.add_argument("--seed", type=int, default=HELD_OUT + 1, help="one that training never uses")
    parser.add_argument("--out", type=Path, help="a JSON file for the result")
    add_options(parser, tasks=120)
    add_role_option(parser)
    arguments = parser.parse_args()
    console = Console()
    with named_failures(parser, (EndpointError, ValueError)):
        result = bench(arguments.url, cast(parse_roles(arguments.role)), arguments, console)
    show({result["model"]: result}, console)
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
