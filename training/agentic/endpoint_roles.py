"""Every role beside the agent's, played by an OpenAI-compatible endpoint. Answers are bound by schemas and checked.

What an endpoint invents is tried again with another seed, a few times, until it is a scenario or a set of tools.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any, TypeVar

from training.agentic.difficulty import Difficulty
from training.agentic.endpoint import Endpoint, EndpointError, seed_of
from training.agentic.environment import Call
from training.agentic.scenario import Domain, Scenario, State, as_json, from_json
from training.agentic.scenarios import goal
from training.agentic.task import Task
from training.agentic.toolset import OPERATIONS, ToolSpec, check_tools, needed, possible
from training.agentic.users import Message
from training.data.words.vocabulary import Novelty

T = TypeVar("T")
TRIES = 5
TEXT = {"type": "string"}
TEXTS = {"type": "array", "items": TEXT}

DOMAIN = {
    "type": "object",
    "properties": {
        "noun": TEXT,
        "finder": TEXT,
        "fields": {"type": "object", "additionalProperties": TEXTS},
        "records": {"type": "object", "additionalProperties": {"type": "object", "additionalProperties": TEXT}},
    },
    "required": ["noun", "finder", "fields", "records"],
    "additionalProperties": False,
}
TOOLS = {
    "type": "array",
    "items": {
        "type": "object",
        "properties": {
            "name": TEXT,
            "description": TEXT,
            "operation": {"enum": list(OPERATIONS)},
            "noun": TEXT,
            "field": TEXT,
        },
        "required": ["name", "description", "operation", "noun", "field"],
        "additionalProperties": False,
    },
}
CALLED = {
    "type": "object",
    "properties": {"state": {"type": "object"}, "result": {"type": "object"}},
    "required": ["state", "result"],
    "additionalProperties": False,
}
CHECKED = {
    "type": "object",
    "properties": {"success": {"type": "boolean"}},
    "required": ["success"],
    "additionalProperties": False,
}
INVENT_DOMAIN = (
    "Invent a table of records, such as a shop or an office keeps. noun: what a record is, one word. finder: a field "
    "whose value is different in every record. fields: two other fields, each with the values that it may take. "
    "records: four of them, by number from 10 to 99, each with the finder and both fields. Names are small letters."
)
DESIGN_TOOLS = (
    "Design the tools of an assistant. Each does one operation: find (a record by its finder), get (a record by its "
    "number), set (one field of a record). You get what is needed, what else is possible, and how many tools there are "
    "to be. Give every tool an own name of small letters and underscores, and a description. Leave field empty for get."
)
BE_USER = (
    "You are the user of an assistant. You get what you want in parts. Say only the part whose turn it is, in your own "
    "words, and nothing else."
)
BE_ENVIRONMENT = (
    "You execute the call of a tool on a state. Answer with the whole state behind the call and the tool's result. A "
    "call that cannot be executed leaves the state as it is, and its result has the field error."
)
BE_CHECKER = (
    "You get the start, the end and the wanted change of a state. success: whether the end is the start with that "
    "change and no other."
)


def tried(make: Callable[[int], T]) -> T:
    """Returns the first of a few tries that is valid. Raises EndpointError with the last one's fault."""
    for number in range(TRIES):
        try:
            return make(number)
        except (EndpointError, ValueError, KeyError, TypeError, AttributeError) as error:
            fault = error
    raise EndpointError(f"no valid answer in {TRIES} tries: {type(fault).__name__}: {fault}")


@dataclass(frozen=True)
class EndpointScenarios:
    """Invents the domains; the goal in them is drawn, so that its difficulty is the one that was asked for."""

    endpoint: Endpoint

    def __call__(self, rng: Random, difficulty: Difficulty, novelty: Novelty) -> Scenario:
        name = f"scenario {rng.getrandbits(62)}"

        def one(number: int) -> Scenario:
            main = self._domain(f"{name} {number}", "")
            return Scenario(main, self._domain(f"{name} {number} other", main.noun), goal(rng, main, difficulty))

        return tried(one)

    def _domain(self, name: str, without: str) -> Domain:
        raw = self.endpoint.json(INVENT_DOMAIN, {"other noun than": without, "example": name}, DOMAIN, seed_of(name))
        records = {int(number): dict(record) for number, record in raw["records"].items()}
        found = Domain(raw["noun"], raw["finder"], {k: tuple(v) for k, v in raw["fields"].items()}, records)
        if found.noun == without:
            raise ValueError(f"domain: {without} a second time")
        return found


@dataclass(frozen=True)
class EndpointTools:
    """Names and describes the tools, and chooses those that are not needed."""

    endpoint: Endpoint

    def __call__(self, rng: Random, scenario: Scenario, difficulty: Difficulty) -> tuple[ToolSpec, ...]:
        name, wanted = f"tools {rng.getrandbits(62)}", needed(scenario)
        content = {
            "needed": wanted,
            "possible": [one for d in (scenario.domain, scenario.other) for one in possible(d)],
            "count": len(wanted) + difficulty.tools,
        }

        def one(number: int) -> tuple[ToolSpec, ...]:
            raw = self.endpoint.json(DESIGN_TOOLS, content, TOOLS, seed_of(f"{name} {number}"))
            tools = tuple(ToolSpec(**spec) for spec in raw)
            check_tools(scenario, difficulty, tools)
            return tools

        return tried(one)


@dataclass
class EndpointUser:
    """Says in its own words what the task's user says, and in the same order."""

    endpoint: Endpoint
    task: Task

    def next(self, messages: list[Message]) -> str | None:
        count = sum(message["role"] == "user" for message in messages)
        if count >= len(self.task.said):
            return None
        seen = [f"{m['role']}: {m['content']}" for m in messages if m["role"] in ("user", "assistant") and m["content"]]
        content = f"So far: {seen}. Say now: {self.task.said[count]}"
        chat: list[Message] = [{"role": "system", "content": BE_USER}, {"role": "user", "content": content}]
        answer = self.endpoint.chat(chat, seed=seed_of(f"user {self.task.name} {count}"))
        return str(answer.get("content") or self.task.said[count])


@dataclass
class EndpointEnvironment:
    """Lets the endpoint execute calls; a state of another form than before is refused."""

    endpoint: Endpoint
    state: State
    tools: tuple[ToolSpec, ...]
    calls: list[Call] = field(default_factory=list)

    def call(self, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
        content = {
            "state": as_json(self.state),
            "tools": [{"name": tool.name, "operation": tool.operation, "field": tool.field} for tool in self.tools],
            "call": {"name": name, "arguments": arguments},
        }

        def one(number: int) -> tuple[State, dict[str, Any]]:
            raw = self.endpoint.json(BE_ENVIRONMENT, content, CALLED, seed_of(f"{len(self.calls)} {number}"))
            state = from_json(raw["state"])
            if _shape(state) != _shape(self.state):
                raise ValueError("state: other records or fields than before")
            return state, dict(raw["result"])

        self.state, result = tried(one)
        self.calls.append(Call(name, arguments, result))
        return result


def _shape(state: State) -> dict[str, dict[int, set[str]]]:
    return {noun: {number: set(record) for number, record in table.items()} for noun, table in state.items()}


@dataclass(frozen=True)
class EndpointChecker:
    """Lets the endpoint compare the end state with the goal."""

    endpoint: Endpoint

    def __call__(self, task: Task, end: State) -> bool:
        wanted = task.scenario.goal
        content = {
            "start": as_json(task.scenario.start()),
            "end": as_json(end),
            "change": {"noun": task.scenario.domain.noun, "number": wanted.number, wanted.field: wanted.value},
        }
        seed = seed_of(f"checker {task.name}")
        return tried(lambda number: bool(self.endpoint.json(BE_CHECKER, content, CHECKED, seed + number)["success"]))
