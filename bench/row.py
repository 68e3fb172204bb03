"""A line of a result table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

WITHIN, AT_LEAST = "≤", "≥"


@dataclass(frozen=True)
class Row:
    """One measured value. `goal` is empty where there is none.

    Rows of one `section` make one table; if they have a `column`, equal `what` share a line of it. `key` is what
    documents look a value up by.
    """

    what: str
    value: float
    unit: str
    goal: str = ""
    met: bool | None = None
    detail: str = ""
    section: str = ""
    column: str = ""
    key: str = ""


def goal_of(value: float, goal: str) -> bool:
    """Whether a value meets a goal such as `≤ 1.15`."""
    relation, bound = goal.split(" ")
    assert relation in (WITHIN, AT_LEAST), goal
    return value <= float(bound) if relation == WITHIN else value >= float(bound)


def shown(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.3g}" for value in values)


def value_of(rows: Sequence[Row], key: str) -> float:
    """The value of the row with a key."""
    return next(row.value for row in rows if row.key == key)
