"""The user's part in an episode."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from training.agentic.task import Task

Message = dict[str, Any]


class User(Protocol):
    """Whom an agent talks to. It sees what was said, and no tool."""

    def next(self, messages: list[Message]) -> str | None:
        """Returns the user's next message, the first one to an empty list, or None at the end."""
        ...


@dataclass
class ProgramUser:
    """The default role: whatever the agent asks, it says the next thing that it has not said yet."""

    said: tuple[str, ...]

    def next(self, messages: list[Message]) -> str | None:
        count = sum(message["role"] == "user" for message in messages)
        return self.said[count] if count < len(self.said) else None


def program_user(task: Task) -> ProgramUser:
    return ProgramUser(task.said)
