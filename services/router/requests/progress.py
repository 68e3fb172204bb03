"""How far one generation has come: pure state, replayed onto a new worker when the old one is gone."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol, TypeVar


class IndexedToken(Protocol):
    """What `accept` reads of a token."""

    @property
    def index(self) -> int: ...

    @property
    def id(self) -> int: ...


TokenT = TypeVar("TokenT", bound=IndexedToken)


@dataclass(slots=True)
class GenerationProgress:
    """A token is taken only from the current attempt and only at the next index; so a zombie worker changes nothing."""

    attempt: int = 0
    emitted_ids: list[int] = field(default_factory=list)
    barren_attempts: int = 0
    dropped: int = 0

    @property
    def next_index(self) -> int:
        return len(self.emitted_ids)

    def open_attempt(self) -> int:
        """A new attempt begins; everything still under way from earlier ones is from now on ignored."""
        self.attempt += 1
        return self.attempt

    def accept(self, attempt: int, tokens: Iterable[TokenT]) -> list[TokenT]:
        """The tokens that go on from here, in order; duplicates, gaps and other attempts' tokens are dropped."""
        accepted: list[TokenT] = []
        for token in tokens:
            if attempt != self.attempt or token.index != len(self.emitted_ids):
                self.dropped += 1
                continue
            self.emitted_ids.append(token.id)
            accepted.append(token)
        if accepted:
            self.barren_attempts = 0
        return accepted

    def attempt_failed(self) -> int:
        """A worker that had taken the request failed; returns how many did so in a row without a new token."""
        self.barren_attempts += 1
        return self.barren_attempts
