"""Roll-outs of training tasks through a cluster, verified by their end state, one line each in a file.

A line is a function of the weights and the task's name: requests are seeded, and a cluster's answers do not depend on
what else it does. So a second run writes the same bytes, whatever runs beside it and wherever the first was ended.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from random import Random
from typing import Any

from training.agentic.casting import Cast
from training.agentic.demonstrations import draw_difficulty
from training.agentic.endpoint import Endpoint, EndpointAgent
from training.agentic.episode import Episode, play
from training.data.dialogues import Answer, Dialogue
from training.data.words.vocabulary import SEEN
from training.recipe import AgenticRecipe


def roll_out(
    endpoint: Endpoint, maker: Cast, prefix: str, number: int, sample: int, recipe: AgenticRecipe
) -> dict[str, Any]:
    """Plays a sample of one training task, and returns its line."""
    name = f"{prefix} {number}"
    task = maker.task(name, draw_difficulty(Random(f"caracal difficulty {name}")), SEEN)
    agent = EndpointAgent(endpoint, f"{name} sample {sample}", recipe.temperature, recipe.reply_tokens)
    return line_of(play(task, agent, maker.roles), sample)


def line_of(episode: Episode, sample: int) -> dict[str, Any]:
    return {
        "task": episode.task.name,
        "difficulty": asdict(episode.task.difficulty),
        "sample": sample,
        "success": episode.success,
        "ending": episode.ending,
        "tools": list(episode.task.declarations),
        "messages": episode.messages,
    }


def sample_tasks(
    endpoint: Endpoint,
    maker: Cast,
    prefix: str,
    recipe: AgenticRecipe,
    file: Path,
    parallel: int,
    done: Callable[[int], None] = lambda lines: None,
) -> None:
    """Writes the lines of all samples, task by task; goes on behind those that the file has already."""
    have = whole_lines(file)
    every = [(number, sample) for number in range(recipe.tasks) for sample in range(recipe.samples)]
    left = every[have:]
    with ThreadPoolExecutor(parallel) as pool, file.open("a", encoding="utf-8") as out:
        lines = pool.map(lambda one: roll_out(endpoint, maker, prefix, one[0], one[1], recipe), left)
        for count, line in enumerate(lines, have + 1):
            out.write(json.dumps(line) + "\n")
            out.flush()
            done(count)


def whole_lines(file: Path) -> int:
    """Drops a last line that is not whole, and returns the number of the others."""
    if not file.exists():
        return 0
    data = file.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    if len(whole) < len(data):
        file.write_bytes(whole)
    return whole.count(b"\n")


def read_lines(file: Path) -> Iterator[dict[str, Any]]:
    with file.open(encoding="utf-8") as lines:
        yield from map(json.loads, lines)


def accepted(file: Path) -> list[Dialogue]:
    """Returns the successful roll-outs that ended in order, each different one once, as dialogues to learn from."""
    seen: dict[str, Dialogue] = {}
    for line in read_lines(file):
        if line["success"] and line["ending"] == "done":
            seen.setdefault(json.dumps([line["tools"], line["messages"]]), learned(line))
    return list(seen.values())


def learned(line: dict[str, Any]) -> Dialogue:
    answers = [
        Answer(number, "agent call" if message.get("tool_calls") else "agent reply")
        for number, message in enumerate(line["messages"])
        if message["role"] == "assistant"
    ]
    return Dialogue(tuple(line["tools"]), tuple(line["messages"]), tuple(answers))


def counts(file: Path) -> dict[str, int]:
    """Returns how many roll-outs there are, how many succeeded, and how many different ones are learned from."""
    lines = list(read_lines(file))
    successes = sum(line["success"] for line in lines)
    return {"rollouts": len(lines), "successes": successes, "learned": len(accepted(file))}
