"""What clients have received, held against what they should have. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Protocol


class Receiver(Protocol):
    """Takes one choice of an answer as it comes. `now`: of the monotonic clock."""

    def token(self, index: int, token_id: int, mark: float, now: float) -> None: ...

    def text(self, part: str, piece: str, now: float) -> None: ...

    def ending(self, reason: str) -> None: ...

    def usage(self, prompt: int, completion: int) -> None:
        """Takes the counts of tokens, of all choices together, as the answer says them."""


@dataclass(frozen=True, slots=True)
class Oracle:
    """A choice as it should be. `marks`: what each token comes with, its logits' checksum or its log-probability.

    `texts`: the parts of the answer by name, its content, a call's arguments; none where only tokens are compared.
    `end`: how it ends. `counts`: of the tokens of the prompt and of all choices; None where another choice has them.
    """

    ids: Sequence[int] = ()
    marks: Sequence[float] = ()
    texts: Mapping[str, str] = field(default_factory=dict)
    end: str = ""
    counts: tuple[int, int] | None = None


@dataclass(slots=True)
class Recorded:
    """Takes a choice that becomes an oracle."""

    ids: list[int] = field(default_factory=list)
    marks: list[float] = field(default_factory=list)
    texts: dict[str, str] = field(default_factory=dict)
    endings: list[str] = field(default_factory=list)
    counts: tuple[int, int] | None = None

    def token(self, index: int, token_id: int, mark: float, now: float) -> None:
        assert index == len(self.ids)
        self.ids.append(token_id)
        self.marks.append(mark)

    def text(self, part: str, piece: str, now: float) -> None:
        self.texts[part] = self.texts.get(part, "") + piece

    def ending(self, reason: str) -> None:
        self.endings.append(reason)

    def usage(self, prompt: int, completion: int) -> None:
        self.counts = prompt, completion

    def oracle(self) -> Oracle:
        (end,) = self.endings
        return Oracle(self.ids, self.marks, self.texts, end, self.counts)


@dataclass(slots=True)
class Answer:
    """The history of one choice, checked while it grows. `times`: of whatever has come, by the monotonic clock."""

    oracle: Oracle
    begun: float
    times: list[float] = field(default_factory=list)
    tokens: int = 0
    texts: dict[str, str] = field(default_factory=dict)
    endings: list[str] = field(default_factory=list)
    counts: tuple[int, int] | None = None
    error: str = ""
    wrong: list[str] = field(default_factory=list)

    @property
    def whole(self) -> bool:
        """Whether it has come to its end, right or not."""
        return bool(self.endings) and not self.error

    def token(self, index: int, token_id: int, mark: float, now: float) -> None:
        at, self.tokens = self.tokens, self.tokens + 1
        self.times.append(now)
        if self.endings:
            self.wrong.append(f"token {index} comes after the ending")
        if index != at:
            self.wrong.append(f"token {index} comes where {at} is due")
        elif at >= len(self.oracle.ids):
            self.wrong.append(f"token {at} is one too many")
        elif (token_id, mark) != (right := (self.oracle.ids[at], self.oracle.marks[at])):
            self.wrong.append(f"token {at} is {token_id} ({mark}) instead of {right[0]} ({right[1]})")

    def text(self, part: str, piece: str, now: float) -> None:
        """Takes the next piece of a part."""
        self.times.append(now)
        if self.endings:
            self.wrong.append(f"a piece of {part} comes after the ending")
        self.texts[part] = self.texts.get(part, "") + piece
        if not self.oracle.texts.get(part, "").startswith(self.texts[part]):
            self.wrong.append(f"{part} goes on with {piece!r}")

    def ending(self, reason: str) -> None:
        if self.endings:
            self.wrong.append(f"it ends twice: {self.endings[0]}, {reason}")
        if reason != self.oracle.end:
            self.wrong.append(f"it ends with {reason} instead of {self.oracle.end}")
        self.endings.append(reason)

    def usage(self, prompt: int, completion: int) -> None:
        if self.counts is not None:
            self.wrong.append("it says twice how many tokens it has")
        self.counts = prompt, completion

    def verdict(self) -> str:
        """ "" for the right answer; else `lost: …` or `changed: …`."""
        if self.wrong:
            return f"changed: {self.wrong[0]}"
        if self.error:
            return f"lost: {self.error}"
        if len(self.endings) != 1:
            return "lost: it has no ending"
        if self.tokens != len(self.oracle.ids):
            return f"changed: it ends after {self.tokens} of {len(self.oracle.ids)} tokens"
        if self.texts != self.oracle.texts:
            missing = [part for part, text in self.oracle.texts.items() if self.texts.get(part) != text]
            return f"changed: it ends before its {missing[0]} does"
        if self.counts != self.oracle.counts:
            return f"changed: it has (prompt, answer) {self.counts} tokens instead of {self.oracle.counts}"
        return ""

    def pauses(self, begin: float, end: float) -> list[float]:
        """The seconds between two tokens, and before the first, of the pauses that touch the time from begin to end."""
        edges = [self.begun, *self.times]
        return [two - one for one, two in pairwise(edges) if two > begin and one < end]
