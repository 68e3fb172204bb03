"""What a task is about: tables of records, and the one change that its user wants.

A record is found by its number, or by the one field whose values are all different.
"""

from __future__ import annotations

import re
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

Record = dict[str, str]
State = dict[str, dict[int, Record]]  # noun -> number -> record

NAME = re.compile(r"[a-z][a-z_]{0,23}")


@dataclass(frozen=True)
class Domain:
    """Records of one kind. `finder` is the field that tells them apart; `fields` have the values that they may take."""

    noun: str
    finder: str
    fields: dict[str, tuple[str, ...]]
    records: dict[int, Record]

    def __post_init__(self) -> None:
        """Raises ValueError naming what is wrong: an endpoint may have written it."""
        for name in (self.noun, self.finder, *self.fields):
            if not NAME.fullmatch(name):
                raise ValueError(f"domain: {name!r} is no name of small letters")
        if not self.fields or self.finder in self.fields:
            raise ValueError(f"domain {self.noun}: needs fields other than {self.finder}")
        if thin := [name for name, values in self.fields.items() if len(set(values)) < 2]:
            raise ValueError(f"domain {self.noun}: {thin[0]} needs two values or more")
        if len(self.records) < 2:
            raise ValueError(f"domain {self.noun}: needs two records or more")
        for number, record in self.records.items():
            if record.keys() != {self.finder, *self.fields}:
                raise ValueError(f"domain {self.noun}: record {number} has the fields {sorted(record)}")
            if wrong := [name for name, values in self.fields.items() if record[name] not in values]:
                raise ValueError(f"domain {self.noun}: record {number} has no such {wrong[0]}")
        if len({record[self.finder] for record in self.records.values()}) < len(self.records):
            raise ValueError(f"domain {self.noun}: two records have one {self.finder}")


@dataclass(frozen=True)
class Goal:
    """`field` of record `number` is to become `value`.

    by_finder: the user names the record by its finder. source: the record whose value is wanted, or None where the user
    says the value; source_by_finder: that one is named by its finder.
    """

    number: int
    field: str
    value: str
    by_finder: bool = False
    source: int | None = None
    source_by_finder: bool = False


@dataclass(frozen=True)
class Scenario:
    """The domain of the goal, and another one that only has tools that are not needed."""

    domain: Domain
    other: Domain
    goal: Goal

    def start(self) -> State:
        """Returns a state that nobody else holds."""
        return {one.noun: deepcopy(one.records) for one in (self.domain, self.other)}

    def wanted(self) -> State:
        """Returns the one end state that is a success."""
        state = self.start()
        state[self.domain.noun][self.goal.number][self.goal.field] = self.goal.value
        return state


def as_json(state: State) -> dict[str, Any]:
    """Returns the state with keys as JSON has them."""
    return {noun: {str(number): record for number, record in table.items()} for noun, table in state.items()}


def from_json(raw: Any) -> State:
    """Reads what `as_json` returned. Raises ValueError where it has another form."""
    try:
        return {
            str(noun): {int(number): {str(k): str(v) for k, v in record.items()} for number, record in table.items()}
            for noun, table in raw.items()
        }
    except (AttributeError, TypeError) as error:
        raise ValueError(f"state: {error}") from None
