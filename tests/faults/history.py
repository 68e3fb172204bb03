"""What clients have received, held against what they should have. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise


@dataclass(frozen=True, slots=True)
class Oracle:
    """An answer as one process gives it."""

    ids: list[int]
    checksums: list[int]


@dataclass(slots=True)
class Answer:
    """One request's history, checked while it grows. `times`: of each token, by the monotonic clock."""

    oracle: Oracle
    begun: float
    times: list[float] = field(default_factory=list)
    endings: list[str] = field(default_factory=list)
    error: str = ""
    wrong: list[str] = field(default_factory=list)

    def token(self, index: int, token_id: int, checksum: int, now: float) -> None:
        at = len(self.times)
        self.times.append(now)
        if self.endings:
            self.wrong.append(f"token {index} comes after the ending")
        if index != at:
            self.wrong.append(f"token {index} comes where {at} is due")
        elif at >= len(self.oracle.ids):
            self.wrong.append(f"token {at} is one too many")
        elif (token_id, checksum) != (self.oracle.ids[at], self.oracle.checksums[at]):
            self.wrong.append(f"token {at} is {token_id}, {checksum:08x} instead of {self._right(at)}")

    def ending(self, reason: str) -> None:
        if self.endings:
            self.wrong.append(f"it ends twice: {self.endings[0]}, {reason}")
        self.endings.append(reason)

    def verdict(self) -> str:
        """ "" for the right answer; else `lost: …` or `changed: …`."""
        if self.wrong:
            return f"changed: {self.wrong[0]}"
        if self.error:
            return f"lost: {self.error}"
        if len(self.endings) != 1:
            return "lost: it has no ending"
        if len(self.times) != len(self.oracle.ids):
            return f"changed: it ends after {len(self.times)} of {len(self.oracle.ids)} tokens"
        return ""

    def pauses(self, begin: float, end: float) -> list[float]:
        """The seconds between two tokens, and before the first, of the pauses that touch the time from begin to end."""
        edges = [self.begun, *self.times]
        return [two - one for one, two in pairwise(edges) if two > begin and one < end]

    def _right(self, at: int) -> str:
        return f"{self.oracle.ids[at]}, {self.oracle.checksums[at]:08x}"
