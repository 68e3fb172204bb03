"""One simulated request: what it asks for, and what its client sees."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from services.prefixes.page_names import PageNames, root_name

OWN = 1 << 31  # ids from here on are those with which what is a conversation's own begins

End = Literal["", "finished", "rejected", "timeout", "failed", "lost", "open"]


@dataclass(frozen=True, slots=True)
class Conversation:
    """The tokens of several turns' prompts and answers, one after the other: each prompt is all that came before it,
    and what the turn adds. The first `shared` are the same in all conversations of one `system`."""

    number: int
    system: int = 0
    shared: int = 0

    def ids(self, tokens: int) -> tuple[int, ...]:
        """The first `tokens`. They differ where prefixes do: a page's name tells all that is before it. Raises
        ValueError where nothing of them is the conversation's own."""
        if tokens <= self.shared:
            raise ValueError(f"a prompt of {tokens} tokens ends in the {self.shared} that others have as well")
        beginning = (1 + self.system, *(0,) * (self.shared - 1)) if self.shared else ()
        return (*beginning, OWN + self.number, *(0,) * (tokens - self.shared - 1))


@dataclass(slots=True, eq=False)
class Generation:
    """`prompt` and `answer` in tokens. Times are seconds of virtual time; -1 = not yet.

    Without a `conversation` its prompt has nothing in common with others'. `then` follows `pause_s` after its end.
    """

    number: int
    arrived: float
    prompt: int
    answer: int
    caller: str
    conversation: Conversation | None = None
    then: Generation | None = None
    pause_s: float = 0.0
    router: int = 0
    first: float = -1.0  # token
    last: float = -1.0  # token so far
    tokens: int = 0
    longest_gap: float = 0.0  # between two tokens
    attempts: int = 0
    ended: float = -1.0
    end: End = ""
    ends: int = 0  # how often it has ended: once

    def prompt_ids(self) -> tuple[int, ...]:
        return self.conversation.ids(self.prompt) if self.conversation else (0,) * self.prompt

    def names(self, page_size: int) -> PageNames:
        """The names of its pages. Without a conversation nobody else has these."""
        salt = b"" if self.conversation is not None else b"%d" % self.number
        return PageNames(root_name("", page_size, salt), page_size)

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
