"""How far the model was off where the truth is published, by kind of question: how sure an answer is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from services.planner.published import rows
from services.planner.rows import Kind, Profiles, Row


@dataclass(frozen=True, slots=True)
class Judged:
    """A row with what the model says. `error`: a share of the published value, or points where that is relative."""

    row: Row
    predicted: float
    error: float

    @property
    def right_sign(self) -> bool:
        """Whether the model says, too, that separating wins or loses."""
        even = 0.0 if self.row.relative else 1.0
        return (self.predicted > even) == (self.row.published > even)


@dataclass(frozen=True, slots=True)
class Sureness:
    """Errors of one kind of question: the root of their mean square, and how many rows were not fitted on."""

    kind: Kind
    error: float
    tested: int


def judge(profiles: Profiles, asked: Sequence[Row] | None = None) -> list[Judged]:
    found = []
    for row in rows() if asked is None else asked:
        predicted = row.predict(profiles)
        error = (predicted - row.published) / 100 if row.relative else predicted / row.published - 1
        found.append(Judged(row, predicted, error))
    return found


def sureness(judged: Sequence[Judged], kind: Kind) -> Sureness:
    """Only rows that nothing was fitted on count."""
    errors = [one.error for one in judged if one.row.kind == kind and one.row.use == "tested"]
    return Sureness(kind, math.sqrt(sum(error**2 for error in errors) / max(1, len(errors))), len(errors))


def signs(judged: Sequence[Judged]) -> tuple[int, int]:
    """How often the model agrees that separating wins or loses, and of how many rows."""
    gains = [one for one in judged if one.row.kind == "gain of separating"]
    return sum(one.right_sign for one in gains), len(gains)
