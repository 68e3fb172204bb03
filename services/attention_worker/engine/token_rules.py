"""Which tokens a sequence may get next, beside its sampling parameters: a grammar, ids allowed or banned, a budget.

A function of the request and the generated ids alone, so that an attempt elsewhere continues under the same rules.
No torch, no I/O. Legend: V vocabulary.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class NothingAllowed(ValueError):
    """No token may follow: the rules of the request contradict each other here, or its grammar cannot go on."""


class Grammar(Protocol):
    """Follows the output of one sequence. Methods raise NothingAllowed when the output cannot go on by it."""

    @property
    def end_id(self) -> int:
        """An id that may follow wherever the output may end."""

    def begin(self) -> None:
        """Starts to compute what may follow, beside the model."""

    def ceiling(self) -> NDArray[np.float32]:
        """Returns +inf for each id that may follow and -inf for any other [V]; valid until the next call of any."""

    def accept(self, token: int) -> None:
        """Takes the next id."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reasoning:
    """The ids that the model's reasoning lies between; whether the prompt has opened a block; the most ids within."""

    begin_id: int
    end_id: int
    open: bool
    budget: int | None = None


class TokenRules:
    """The rules of one sequence. `accept` every id, also those of earlier attempts, in order."""

    def __init__(
        self,
        allowed_ids: frozenset[int] = frozenset(),
        banned: Sequence[tuple[int, ...]] = (),
        reasoning: Reasoning | None = None,
        grammar: Grammar | None = None,
    ) -> None:
        self._allowed = np.fromiter(sorted(allowed_ids), np.int64)
        self._banned = [(ids[:-1], ids[-1]) for ids in banned]
        self._latest = deque[int](maxlen=max((len(ids) - 1 for ids in banned), default=0))
        self._reasoning = reasoning
        self._grammar = grammar
        self._reasons = reasoning is not None and reasoning.open
        self._reasoned = 0
        self._grammar_waits = self._reasons  # until the block that the prompt opened has ended

    def begin(self) -> None:
        """Starts what `apply` will need, beside the model. Raises NothingAllowed."""
        if self._grammar is not None and not self._grammar_waits:
            self._grammar.begin()

    def apply(self, row_V: NDArray[np.float32], stop_ids: Collection[int] = ()) -> None:
        """Sets the logits of ids that may not come next to -inf. Raises NothingAllowed.

        `stop_ids` end the output: beside a grammar, where it is complete and nowhere else.
        """
        if self._grammar is not None:
            ends = list(stop_ids)
            if self._grammar_waits:
                row_V[ends] = -np.inf
            else:
                kept, ceiling_V = row_V[ends], self._grammar.ceiling()
                np.minimum(row_V, ceiling_V, out=row_V)
                if ceiling_V[self._grammar.end_id] > 0:
                    row_V[ends] = kept
        if len(self._allowed):
            _keep(row_V, self._allowed)
        latest = tuple(self._latest)
        for before, last in self._banned:
            if not before or latest[-len(before) :] == before:
                row_V[last] = -np.inf
        if self._spent:
            assert self._reasoning is not None
            _keep(row_V, np.array([self._reasoning.end_id]))

    def accept(self, token: int) -> None:
        """Takes the next id. Raises NothingAllowed when the grammar cannot take it."""
        self._latest.append(token)
        if self._grammar is not None and not self._grammar_waits:
            self._grammar.accept(token)
        if self._reasoning is None:
            return
        if self._reasons and token == self._reasoning.end_id:
            self._reasons = self._grammar_waits = False
        elif self._reasons:
            self._reasoned += 1
        elif token == self._reasoning.begin_id:
            self._reasons = True

    @property
    def _spent(self) -> bool:
        """Whether the reasoning that is open has to end."""
        reasoning = self._reasoning
        budget = None if reasoning is None else reasoning.budget
        return self._reasons and budget is not None and self._reasoned >= budget


def _keep(row_V: NDArray[np.float32], ids: NDArray[np.int64]) -> None:
    kept = row_V[ids]
    row_V.fill(-np.inf)
    row_V[ids] = kept
