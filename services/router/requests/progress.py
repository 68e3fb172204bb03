"""The progress of one generation: pure state, replayed onto a new worker when the old one is gone."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

MAX_IMPLICATED_IN_A_ROW = 2  # deaths of workers without a new token, where the request may well be the reason
MAX_FAILURES_IN_A_ROW = 3  # the same, whatever the reason
RETRY_PAUSE_S, LONGEST_PAUSE_S = 0.05, 1.0  # doubles with each attempt in a row without a new token


def retry_pause_s(fruitless: int) -> float:
    """Seconds before the next attempt, after so many in a row without a new token: another worker is asked at once."""
    return min(LONGEST_PAUSE_S, RETRY_PAUSE_S * 2.0 ** min(fruitless - 2, 10)) if fruitless > 1 else 0.0


class Ends(Protocol):
    """The fields of sampling parameters that say when an answer is whole."""

    @property
    def stop_ids(self) -> Collection[int]: ...

    @property
    def ignore_eos(self) -> bool: ...

    @property
    def min_tokens(self) -> int: ...

    @property
    def max_tokens(self) -> int: ...


def ending_of(emitted: Sequence[int], sampling: Ends, eos_ids: Collection[int]) -> tuple[str, int | None] | None:
    """The finish reason, and the stop id if that is it, of an answer that its tokens say is whole; None of another."""
    if not emitted:
        return None
    last, ignored = emitted[-1], sampling.ignore_eos
    if (last in sampling.stop_ids or (last in eos_ids and not ignored)) and len(emitted) >= sampling.min_tokens:
        return "stop", last
    return ("length", None) if len(emitted) >= sampling.max_tokens else None


class IndexedToken(Protocol):
    """The fields of a token that `accept` reads."""

    @property
    def index(self) -> int: ...

    @property
    def id(self) -> int: ...


TokenT = TypeVar("TokenT", bound=IndexedToken)


@dataclass(slots=True)
class GenerationProgress:
    """The attempts and the emitted ids of one generation.

    A token is taken only from the current attempt and only at the next index, so a zombie worker changes nothing.
    """

    attempt: int = 0
    emitted_ids: list[int] = field(default_factory=list)
    scored: int = 0  # tokens of the prompt, from its beginning, whose log-probabilities came
    failures_in_a_row: int = 0  # attempts that ended without a new token
    deaths_in_a_row: int = 0  # of workers, without a new token
    implicated_in_a_row: int = 0  # those of them of which the request may well be the reason
    dropped: int = 0

    @property
    def next_index(self) -> int:
        return len(self.emitted_ids)

    def open_attempt(self) -> int:
        """Begins a new attempt and returns its number; from now on tokens of earlier attempts are dropped."""
        self.attempt += 1
        return self.attempt

    def accept(self, attempt: int, tokens: Sequence[TokenT]) -> Sequence[TokenT]:
        """Returns the tokens that continue the sequence; drops duplicates, gaps and tokens of other attempts."""
        if len(tokens) == 1 and attempt == self.attempt and tokens[0].index == len(self.emitted_ids):  # nearly always
            self.emitted_ids.append(tokens[0].id)
            self._goes_on()
            return tokens
        accepted: list[TokenT] = []
        for token in tokens:
            if attempt != self.attempt or token.index != len(self.emitted_ids):
                self.dropped += 1
                continue
            self.emitted_ids.append(token.id)
            accepted.append(token)
        if accepted:
            self._goes_on()
        return accepted

    def accept_scores(self, attempt: int, tokens: Iterable[TokenT]) -> list[TokenT]:
        """Returns the scored tokens of the prompt that come next in it. The first one of a prompt has no score."""
        accepted: list[TokenT] = []
        for token in tokens:
            if attempt != self.attempt or token.index != max(1, self.scored):
                self.dropped += 1
                continue
            self.scored = token.index + 1
            accepted.append(token)
        if accepted:
            self._goes_on()
        return accepted

    def attempt_failed(self) -> int:
        """Counts a failed attempt; returns how many have failed in a row without a new token."""
        self.failures_in_a_row += 1
        return self.failures_in_a_row

    def worker_died(self, implicated: bool = False) -> bool:
        """Counts the death of a worker under it; returns whether there were too many in a row without a new token."""
        self.deaths_in_a_row += 1
        self.implicated_in_a_row += implicated
        return self.is_poison

    @property
    def is_poison(self) -> bool:
        """Whether so many workers have died in a row that the request is to be kept from others."""
        few = self.implicated_in_a_row < MAX_IMPLICATED_IN_A_ROW
        return not few or self.deaths_in_a_row >= MAX_FAILURES_IN_A_ROW

    def _goes_on(self) -> None:
        self.failures_in_a_row = self.deaths_in_a_row = self.implicated_in_a_row = 0
