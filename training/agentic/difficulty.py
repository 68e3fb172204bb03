"""How difficult a task is, along three axes; each number is one that the task's own solution shows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from itertools import product


@dataclass(frozen=True, order=True)
class Difficulty:
    """Raises ValueError naming the axis when a number is out of its range.

    information: values that one tool has to give so that another can be called with them.
    tools: tools that are declared and not needed.
    interaction: messages of the user behind the first, each with something that only they say.
    """

    information: int = 0
    tools: int = 0
    interaction: int = 0

    def __post_init__(self) -> None:
        for axis, level in asdict(self).items():
            if not 0 <= level <= MOST[axis]:
                raise ValueError(f"difficulty: {axis} is {level}, must be 0 to {MOST[axis]}")

    @classmethod
    def all(cls) -> Iterator[Difficulty]:
        """Returns every combination, the easiest first."""
        return (cls(*levels) for levels in product(*(range(MOST[axis] + 1) for axis in AXES)))


MOST = {"information": 3, "tools": 4, "interaction": 2}
AXES = tuple(axis.name for axis in fields(Difficulty))
