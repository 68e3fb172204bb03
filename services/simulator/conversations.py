"""Clients that talk in turns, of which each one's prompt begins with what the ones before it asked and got.

Deterministic by its seed, but for when later turns come: a client reads an answer before it goes on.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from services.simulator.generation import Conversation, Generation
from services.simulator.traffic import Arrivals


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversations:
    """`opening`: the first turns, with what each turn adds to the prompt as its prompts' lengths, and answers.

    A conversation has `turns` on average (a geometric number), with pauses of `pause_s` on average (exponential), and
    ends before a turn that would have more than `most` tokens. All begin with `system_tokens` of one of `systems`
    prompts that many share; of those each is as popular as the others.
    """

    opening: Arrivals
    turns: float = 1.0
    pause_s: float = 20.0
    systems: int = 1
    system_tokens: int = 0
    most: int = 32768

    def __post_init__(self) -> None:
        """Raises ValueError for numbers that no traffic has."""
        if self.turns < 1 or self.pause_s < 0 or self.systems < 1 or self.system_tokens < 0:
            raise ValueError("a conversation has a turn at least, and one of at least one system prompt")

    def generate(self, seed: int) -> Iterator[Generation]:
        """The first turns in their order; `then` of each is the next one."""
        rng, number = np.random.default_rng([seed, 4]), 0
        for place, first in enumerate(self.opening.generate(seed)):
            conversation = Conversation(place, int(rng.integers(self.systems)), self.system_tokens)
            first.number, first.conversation = number, conversation
            first.prompt += self.system_tokens
            number += 1
            last = first
            for _ in range(int(rng.geometric(1 / self.turns)) - 1):
                after = self._after(last, number, rng)
                if after.prompt + after.answer > self.most:
                    break
                last.then, last = after, after
                number += 1
            yield first

    def _after(self, last: Generation, number: int, rng: np.random.Generator) -> Generation:
        last.pause_s = float(rng.exponential(self.pause_s))
        kind = self.opening.kind
        asked, answer = int(kind.prompt.draw(rng, 1)[0]), int(kind.answer.draw(rng, 1)[0])
        prompt = last.prompt + last.answer + asked
        return Generation(number, -1.0, prompt, answer, last.caller, last.conversation)
