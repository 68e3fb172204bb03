"""Solved tasks: an agent that knows the task plays it, which gives dialogues to learn from, and a task's measure."""

from __future__ import annotations

import json
from collections.abc import Callable
from random import Random
from typing import Any

from training.agentic.difficulty import MOST, Difficulty
from training.agentic.episode import Episode, play
from training.agentic.scenario import Domain
from training.agentic.scenarios import scenario
from training.agentic.task import Task, make_task
from training.agentic.toolset import program_tools
from training.agentic.users import Message
from training.data.dialogues import Answer, Dialogue
from training.data.words.vocabulary import Novelty

QUESTIONS = {0: (), 1: ("Which {field}?",), 2: ("Which {noun}?", "What shall I change?")}


class Solver:
    """The agent that knows the solution: it asks for what the user holds back, calls what is needed, and reports."""

    def __init__(self, task: Task) -> None:
        self.task = task

    def reply(self, messages: list[Message], tools: tuple[dict[str, Any], ...]) -> Message:
        step = sum(message["role"] == "assistant" for message in messages)
        plan = self._plan()
        return plan[step]() if step < len(plan) else {"role": "assistant", "content": self._report()}

    def _plan(self) -> list[Callable[[], Message]]:
        task, goal, domain = self.task, self.task.scenario.goal, self.task.scenario.domain
        words = {"field": goal.field, "noun": domain.noun}
        questions = [text.format(**words) for text in QUESTIONS[task.difficulty.interaction]]
        plan: list[Callable[[], Message]] = [_say(text) for text in questions]
        if goal.by_finder:
            plan.append(self._find(domain, goal.number))
        if goal.source is not None:
            if goal.source_by_finder:
                plan.append(self._find(domain, goal.source))
            plan.append(self._call("get", "", {domain.noun: goal.source}))
        plan.append(self._call("set", goal.field, {domain.noun: goal.number, goal.field: goal.value}))
        return plan

    def _find(self, domain: Domain, number: int) -> Callable[[], Message]:
        return self._call("find", domain.finder, {domain.finder: domain.records[number][domain.finder]})

    def _call(self, operation: str, field: str, arguments: dict[str, Any]) -> Callable[[], Message]:
        purpose = (operation, self.task.scenario.domain.noun, field)
        name = next(tool.name for tool in self.task.tools if tool.purpose == purpose)
        function = {"name": name, "arguments": json.dumps(arguments)}
        return lambda: {"role": "assistant", "content": None, "tool_calls": [{"id": "", "function": function}]}

    def _report(self) -> str:
        goal, noun = self.task.scenario.goal, self.task.scenario.domain.noun
        return f"Done. The {goal.field} of {noun} {goal.number} is {goal.value}."


def _say(text: str) -> Callable[[], Message]:
    return lambda: {"role": "assistant", "content": text}


def solution(task: Task) -> Episode:
    """Returns the episode of the agent that knows the task."""
    return play(task, Solver(task))


def shown(episode: Episode) -> Difficulty:
    """Returns the difficulty that a solved episode shows: it is counted in calls, results, tools and messages.

    A value that a call takes and that only an earlier result has is one of information.
    """
    said = " ".join(m["content"] for m in episode.messages if m["role"] == "user").replace(".", " ").split()
    results: list[str] = []
    taken = 0
    for call in episode.calls:
        values = [str(value) for value in call.arguments.values()]
        taken += sum(value in results and value not in said for value in values)
        results += [str(value) for value in call.result.values()]
    used = {call.tool for call in episode.calls}
    turns = sum(message["role"] == "user" for message in episode.messages)
    return Difficulty(taken, len(episode.task.tools) - len(used), turns - 1)


def draw_difficulty(rng: Random) -> Difficulty:
    """Returns a difficulty, each level of each axis as likely as the others."""
    return Difficulty(*(rng.randint(0, most) for most in MOST.values()))


def program_task(name: str, difficulty: Difficulty, novelty: Novelty) -> Task:
    """Returns a task that programs alone have made."""
    return make_task(name, difficulty, novelty, scenario, program_tools)


def as_dialogue(episode: Episode) -> Dialogue:
    """Returns an episode as what a model learns from: every reply of the agent is an answer."""
    answers = [
        Answer(number, "agent call" if message.get("tool_calls") else "agent reply")
        for number, message in enumerate(episode.messages)
        if message["role"] == "assistant"
    ]
    return Dialogue(episode.task.declarations, tuple(episode.messages), tuple(answers))


def demonstration(rng: Random, novelty: Novelty) -> Dialogue:
    """Returns a solved task."""
    return as_dialogue(solution(program_task(f"shown {rng.getrandbits(62)}", draw_difficulty(rng), novelty)))
