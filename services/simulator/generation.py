"""One simulated request: what it asks for, and what its client sees."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

End = Literal["", "finished", "rejected", "timeout", "failed", "lost", "open"]


@dataclass(slots=True, eq=False)
class Generation:
    """`prompt` and `answer` in tokens. Times are seconds of virtual time; -1 = not yet."""

    number: int
    arrived: float
    prompt: int
    answer: int
    caller: str
    router: int = 0
    first: float = -1.0  # token
    last: float = -1.0  # token so far
    tokens: int = 0
    longest_gap: float = 0.0  # between two tokens
    attempts: int = 0
    ended: float = -1.0
    end: End = ""
    ends: int = 0  # how often it has ended: once

    def finish(self, end: End, at: float) -> None:
        self.end, self.ended = end, at
        self.ends += 1

    @property
    def ttft_s(self) -> float:
        return self.first - self.arrived if self.tokens else float("inf")

    @property
    def tpot_s(self) -> float:
        """Mean seconds between two tokens."""
        return (self.last - self.first) / (self.tokens - 1) if self.tokens > 1 else 0.0
