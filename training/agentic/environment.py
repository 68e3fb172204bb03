"""The program that executes tool calls on a state. Its answers are JSON texts, as a tool's results are."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from training.agentic.scenario import Scenario, State
from training.agentic.toolset import ToolSpec


@dataclass(frozen=True)
class Call:
    """One call that was made, and its result."""

    tool: str
    arguments: dict[str, Any]
    result: dict[str, Any]


@dataclass
class Environment:
    """Tables, the tools that work on them, and all calls so far."""

    state: State
    tools: tuple[ToolSpec, ...]
    calls: list[Call] = field(default_factory=list)

    def call(self, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """Executes a call. What cannot be executed changes nothing, and its result is an `error`."""
        tool = next((tool for tool in self.tools if tool.name == name), None)
        result = {"error": f"no tool {name}"} if tool is None else self._execute(tool, arguments)
        self.calls.append(Call(name, arguments, result))
        return result

    def _execute(self, tool: ToolSpec, arguments: dict[str, Any]) -> dict[str, Any]:
        if error := wrong_arguments(tool, arguments):
            return {"error": error}
        operations: dict[str, Callable[[ToolSpec, dict[str, Any]], dict[str, Any]]] = {
            "find": self._find,
            "get": self._get,
            "set": self._set,
        }
        return operations[tool.operation](tool, arguments)

    def _find(self, tool: ToolSpec, arguments: dict[str, Any]) -> dict[str, Any]:
        found = [
            number for number, record in self.state[tool.noun].items() if record[tool.field] == arguments[tool.field]
        ]
        return {tool.noun: found[0]} if found else {"error": f"no such {tool.noun}"}

    def _get(self, tool: ToolSpec, arguments: dict[str, Any]) -> dict[str, Any]:
        record = self.state[tool.noun].get(arguments[tool.noun])
        return dict(record) if record is not None else {"error": f"no such {tool.noun}"}

    def _set(self, tool: ToolSpec, arguments: dict[str, Any]) -> dict[str, Any]:
        record = self.state[tool.noun].get(arguments[tool.noun])
        if record is None:
            return {"error": f"no such {tool.noun}"}
        record[tool.field] = arguments[tool.field]
        return {"ok": True}


def wrong_arguments(tool: ToolSpec, arguments: dict[str, Any]) -> str:
    """Returns what is wrong with a call's arguments, or an empty text."""
    parameters = tool.parameters()
    if missing := [name for name in parameters if name not in arguments]:
        return f"{missing[0]} is missing"
    if unknown := [name for name in arguments if name not in parameters]:
        return f"{unknown[0]} is unknown"
    for name, kind in parameters.items():
        value = arguments[name]
        if not isinstance(value, str if kind == "string" else int) or isinstance(value, bool):
            return f"{name} is no {kind}"
    return ""


def parse_arguments(text: str) -> dict[str, Any] | None:
    """Returns a call's arguments, or None when they are no JSON object."""
    try:
        arguments = json.loads(text)
    except ValueError:
        return None
    return arguments if isinstance(arguments, dict) else None


def program_environment(scenario: Scenario, tools: tuple[ToolSpec, ...]) -> Environment:
    """The default role."""
    return Environment(scenario.start(), tools)
