"""Whole dialogues: a system prompt, declared tools and a few rounds, all generated from one seed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random
from typing import Any

from training.data.dialogues import skills
from training.data.dialogues.memory import Memory
from training.data.dialogues.tools import NO_TOOL, TOOLS, Tool

SYSTEMS = ("You are Caracal, a helpful assistant.", "You are a helpful assistant.", "Answer briefly.")
HELD_OUT = 1_000_000  # seeds from here on are never trained on; this one is watched during training
TOOL_SHARE = 0.14
SKILLS = (skills.arithmetic, skills.arithmetic, skills.arithmetic, skills.counting, skills.conversion)

Message = dict[str, Any]


@dataclass(frozen=True)
class Answer:
    """One assistant message: its index in the dialogue and its category."""

    index: int
    category: str


@dataclass(frozen=True)
class Dialogue:
    """Messages and tools in the form of the OpenAI API, and where the answers are."""

    tools: tuple[dict[str, Any], ...]
    messages: tuple[Message, ...]
    answers: tuple[Answer, ...]


@dataclass
class _Draft:
    rng: Random
    tools: list[Tool]
    memory: Memory = field(default_factory=Memory)
    messages: list[Message] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)
    calls: int = 0

    def say(self, role: str, content: str) -> None:
        self.messages.append({"role": role, "content": content})

    def answer(self, category: str, content: str) -> None:
        self.answers.append(Answer(len(self.messages), category))
        self.say("assistant", content)

    def call(self, name: str, arguments: dict[str, Any]) -> str:
        self.calls += 1
        call_id = f"call_{self.calls}"
        function = {"name": name, "arguments": json.dumps(arguments)}
        self.answers.append(Answer(len(self.messages), "tool call"))
        calls = [{"id": call_id, "type": "function", "function": function}]
        self.messages.append({"role": "assistant", "content": None, "tool_calls": calls})
        return call_id

    def question(self) -> None:
        """Adds a round that needs no tool."""
        roll = self.rng.random()
        if roll < 0.5:
            category, question, answer = self.rng.choice(SKILLS)(self.rng)
        elif roll < 0.67:
            category, question, answer = self.memory.state(self.rng)
        elif roll < 0.95:
            ask = self.memory.known or self.rng.random() < 0.1
            category, question, answer = self.memory.ask(self.rng) if ask else self.memory.state(self.rng)
        else:
            category, question, answer = skills.small_talk(self.rng)
        self.say("user", question)
        self.answer(category, answer)

    def use_tool(self) -> None:
        """Adds a round that one of the declared tools can answer, or none."""
        if not self.tools or self.rng.random() < 0.1:
            missing = [tool for tool in TOOLS if tool not in self.tools]
            self.say("user", self.rng.choice(missing).example(self.rng).question)
            return self.answer("no tool", NO_TOOL)
        tool = self.rng.choice(self.tools)
        example = tool.example(self.rng)
        self.say("user", example.question)
        call_id = self.call(tool.name, example.arguments)
        result = json.dumps(example.result)
        self.messages.append({"role": "tool", "tool_call_id": call_id, "content": result})
        return self.answer("tool result", example.answer)


def dialogue_at(seed: int, number: int) -> Dialogue:
    """Returns dialogue `number` of the stream of `seed`. Equal arguments give equal dialogues."""
    rng = Random(f"caracal dialogues {seed} {number}")
    with_tools = rng.random() < TOOL_SHARE
    draft = _Draft(rng, rng.sample(TOOLS, rng.choice((1, 1, 2, 2, 3))) if with_tools else [])
    if rng.random() < 0.4:
        draft.say("system", rng.choice(SYSTEMS))
    for _ in range(rng.randint(3, 7) if with_tools else rng.randint(2, 6)):
        if rng.random() < (0.6 if with_tools else 0.03):
            draft.use_tool()
        else:
            draft.question()
    return Dialogue(tuple(tool.schema() for tool in draft.tools), tuple(draft.messages), tuple(draft.answers))


def dialogues(seed: int, start: int, count: int) -> Iterator[Dialogue]:
    """Returns dialogues `start` to `start + count - 1` of a stream."""
    return (dialogue_at(seed, number) for number in range(start, start + count))
