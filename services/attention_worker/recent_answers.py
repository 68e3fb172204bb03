"""Tokens of answers that may be asked for again, by another router: theirs may have died, or their client's connection.

Kept in memory for a while, so many at most; what is not here is computed again, to the same bits.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from services.attention_worker.engine.sequence import Emit, Ending, TokenOut

KEPT_S = 60.0  # after the attempt's end: clients have half of it to come back
MOST_TOKENS = 1 << 18  # of all answers
MOST_ANSWERS = 1 << 12


@dataclass(slots=True)
class RecentAnswer:
    """An answer so far. Of the tokens before `first` nothing but the ids is known: another worker computed them."""

    first: int
    tokens: list[TokenOut]
    until: float | None = None  # set when its attempt has ended


class RecentAnswers:
    """The answers of one worker, by the keys that routers gave them. For its event loop."""

    def __init__(self, most_tokens: int = MOST_TOKENS, clock: Callable[[], float] = time.monotonic) -> None:
        self._most, self._clock = most_tokens, clock
        self._answers: dict[bytes, RecentAnswer] = {}  # in the order in which their attempts began
        self._tokens = 0

    def __len__(self) -> int:
        return len(self._answers)

    def find(self, key: bytes, emitted: tuple[int, ...], known: int) -> list[TokenOut]:
        """What there is of an answer after the tokens `emitted`; empty when it is nothing, or goes on from others.

        `known`: tokens, from the answer's beginning, of which the ids are enough.
        """
        answer = self._answers.get(key)
        if answer is None or answer.first > max(len(emitted), known):
            return []
        if any(token.id != id for token, id in zip(answer.tokens, emitted, strict=False)):
            return []
        return answer.tokens[len(emitted) :]

    def follow(self, key: bytes, emitted: tuple[int, ...], found: list[TokenOut], emit: Emit) -> Emit:
        """The same receiver, whose tokens are kept from now on. They come after `emitted` and what was `found`."""
        before = self._answers.get(key) if found else None
        tokens = list(before.tokens) if before else [TokenOut(index, id, 0) for index, id in enumerate(emitted)]
        self._forget(key)
        self._prune()
        answer = self._answers[key] = RecentAnswer(before.first if before else len(emitted), tokens)
        self._tokens += len(tokens)

        def keeping(tokens: list[TokenOut], ending: Ending | None) -> None:
            if self._answers.get(key) is answer:
                for token in tokens:
                    if token.generated and token.index == len(answer.tokens):
                        answer.tokens.append(token)
                        self._tokens += 1
                if ending is not None:
                    answer.until = self._clock() + KEPT_S
            emit(tokens, ending)

        return keeping

    def _prune(self) -> None:
        now = self._clock()
        for key in [key for key, one in self._answers.items() if one.until is not None and one.until < now]:
            self._forget(key)
        while self._tokens > self._most or len(self._answers) > MOST_ANSWERS:
            self._forget(next(iter(self._answers)))

    def _forget(self, key: bytes) -> None:
        answer = self._answers.pop(key, None)
        if answer is not None:
            self._tokens -= len(answer.tokens)
