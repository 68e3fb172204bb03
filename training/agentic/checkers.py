"""Whether an episode was a success."""

from __future__ import annotations

from collections.abc import Callable

from training.agentic.scenario import State
from training.agentic.task import Task

CheckerRole = Callable[[Task, State], bool]


def program_checker(task: Task, end: State) -> bool:
    """The default role: the end state is the start with the goal's change, and no other. No text counts."""
    return end == task.scenario.wanted()
