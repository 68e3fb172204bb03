"""Dialogues of the corpus: a pure function of seed, number, mixture, length and novelty."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from random import Random
from typing import Any

from training.agentic.demonstrations import demonstration
from training.data.corpus import conversation, reckoning
from training.data.corpus.memory import Memory
from training.data.corpus.mixture import KINDS, Mixture
from training.data.corpus.reckoning import Question
from training.data.corpus.tool_use import NO_TOOL, Tool, draw_tools, missing_tool
from training.data.declarations import result_text
from training.data.dialogues import Answer, Dialogue
from training.data.words.vocabulary import SEEN, Novelty

SYSTEMS = (
    "You are Caracal, a helpful assistant.", "You are a helpful assistant.", "Answer briefly.",
    "You are a concise assistant.", "Use the tools when they help.", "Be friendly.",
)  # fmt: skip
WITH_TOOLS = ("tools", "no_tool")
PLAIN: dict[str, Callable[[Random, Novelty], Question]] = {
    "arithmetic": reckoning.arithmetic,
    "counting": reckoning.counting,
    "conversion": reckoning.conversion,
}
ROUNDS, LONG_ROUNDS = (2, 6), (16, 32)


@dataclass(frozen=True)
class Source:
    """A stream of dialogues: which kinds, what share of them is long, and which half of words and forms."""

    mixture: Mixture = field(default_factory=Mixture)
    long_share: float = 0.0
    novelty: Novelty = SEEN

    def at(self, seed: int, number: int) -> Dialogue:
        """Returns dialogue `number` of the stream of `seed`. Equal arguments give equal dialogues."""
        rng = Random(f"caracal corpus {seed} {number}")
        kind = rng.choices(KINDS, self.mixture.shares)[0]
        if kind == "agent":
            return demonstration(rng, self.novelty)
        return _rounds(rng, self, kind)

    def dialogues(self, seed: int, start: int, count: int) -> Iterator[Dialogue]:
        """Returns dialogues `start` to `start + count - 1` of a stream."""
        return (self.at(seed, number) for number in range(start, start + count))


@dataclass
class _Draft:
    rng: Random
    novelty: Novelty
    tools: list[Tool]
    memory: Memory
    messages: list[dict[str, Any]] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)
    calls: int = 0

    def say(self, role: str, content: str) -> None:
        self.messages.append({"role": role, "content": content})

    def answer(self, category: str, content: str) -> None:
        self.answers.append(Answer(len(self.messages), category))
        self.say("assistant", content)

    def round(self, kind: str) -> None:
        """Adds a question of a kind and what it takes to answer it."""
        if kind in PLAIN:
            self._plain(PLAIN[kind](self.rng, self.novelty))
        elif kind == "memory":
            states = not self.memory.known or self.rng.random() < 0.4
            self._plain((self.memory.state if states else self.memory.ask)(self.rng))
        elif kind == "conversation":
            other = self.rng.random() < 0.6
            self._plain((conversation.off_topic if other else conversation.small_talk)(self.rng, self.novelty))
        elif kind == "tools" and self.tools:
            self._use(self.rng.choice(self.tools))
        else:
            self.say("user", missing_tool(self.rng, self.novelty, self.tools))
            self.answer("no tool", NO_TOOL)

    def _plain(self, question: Question) -> None:
        category, asked, answer = question
        self.say("user", asked)
        self.answer(category, answer)

    def _use(self, tool: Tool) -> None:
        self.calls += 1
        exchange, call_id = tool.exchange(self.rng, self.novelty), f"call_{self.calls}"
        self.say("user", exchange.question)
        function = {"name": tool.name, "arguments": json.dumps(exchange.arguments)}
        self.answers.append(Answer(len(self.messages), "tool call"))
        calls = [{"id": call_id, "type": "function", "function": function}]
        self.messages.append({"role": "assistant", "content": None, "tool_calls": calls})
        content = result_text(self.rng, exchange.result)
        self.messages.append({"role": "tool", "tool_call_id": call_id, "content": content})
        self.answer("tool result", exchange.answer)


def _rounds(rng: Random, source: Source, theme: str) -> Dialogue:
    """A dialogue of short rounds: its theme's every other time, of all kinds otherwise.

    Tools are declared where the theme has to do with them, and in some dialogues that need none.
    """
    declares = theme == "tools" or (theme == "no_tool" and rng.random() < 0.7) or rng.random() < 0.04
    tools = draw_tools(rng, source.novelty, rng.choice((1, 1, 2, 2, 3, 4))) if declares else []
    draft = _Draft(rng, source.novelty, tools, Memory(source.novelty))
    if rng.random() < 0.4:
        draft.say("system", rng.choice(SYSTEMS))
    shares = dict(zip(KINDS, source.mixture.shares, strict=True)) | {"agent": 0.0}
    if not tools:
        shares["tools"] = 0.0
        shares["no_tool"] /= 4
    others = [kind for kind in KINDS if shares[kind]]
    least, most = LONG_ROUNDS if rng.random() < source.long_share else ROUNDS
    for _ in range(rng.randint(least, most)):
        own = rng.random() < 0.6 or not others
        draft.round(theme if own else rng.choices(others, [shares[kind] for kind in others])[0])
    return Dialogue(tuple(tool.schema(rng) for tool in draft.tools), tuple(draft.messages), tuple(draft.answers))
