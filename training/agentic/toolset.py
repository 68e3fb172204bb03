"""The tools of a task: each is a name for one operation that an environment executes on a table."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Any

from training.agentic.difficulty import Difficulty
from training.agentic.scenario import NAME, Domain, Scenario
from training.data.declarations import declaration

OPERATIONS = ("find", "get", "set")
NAMES = {
    "find": ("find_{noun}", "search_{noun}", "{noun}_by_{field}"),
    "get": ("get_{noun}", "show_{noun}", "read_{noun}"),
    "set": ("set_{noun}_{field}", "change_{noun}_{field}", "update_{noun}_{field}"),
}
DESCRIPTIONS = {
    "find": "Number of the {noun} with this {field}.",
    "get": "The {noun} with this number.",
    "set": "Changes the {field} of a {noun}.",
}


@dataclass(frozen=True)
class ToolSpec:
    """`field`: by which `find` looks, or which `set` changes; empty for `get`. Raises ValueError naming the fault."""

    name: str
    description: str
    operation: str
    noun: str
    field: str = ""

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name):
            raise ValueError(f"tool: {self.name!r} is no name of small letters")
        if self.operation not in OPERATIONS:
            raise ValueError(f"tool {self.name}: operation {self.operation!r}, must be one of {', '.join(OPERATIONS)}")

    @property
    def purpose(self) -> tuple[str, str, str]:
        return self.operation, self.noun, self.field

    def parameters(self) -> dict[str, str]:
        """Returns the JSON type of each argument."""
        if self.operation == "find":
            return {self.field: "string"}
        return {self.noun: "integer"} | ({self.field: "string"} if self.operation == "set" else {})

    def schema(self, rng: Random) -> dict[str, Any]:
        """Returns a declaration for the OpenAI API."""
        return declaration(
            rng, self.name, self.description, {name: {"type": kind} for name, kind in self.parameters().items()}
        )


def needed(scenario: Scenario) -> list[tuple[str, str, str]]:
    """Returns the purposes without which the goal cannot be reached, in the order of their use."""
    goal, noun, finder = scenario.goal, scenario.domain.noun, scenario.domain.finder
    purposes = [("find", noun, finder)] if goal.by_finder or goal.source_by_finder else []
    if goal.source is not None:
        purposes.append(("get", noun, ""))
    return [*purposes, ("set", noun, goal.field)]


def possible(domain: Domain) -> list[tuple[str, str, str]]:
    """Returns every purpose that a tool of this domain can have."""
    noun = domain.noun
    return [("find", noun, domain.finder), ("get", noun, ""), *(("set", noun, field) for field in domain.fields)]


def program_tools(rng: Random, scenario: Scenario, difficulty: Difficulty) -> tuple[ToolSpec, ...]:
    """The default role: what is needed, and so many more of the same domain and of the other, in any order."""
    wanted = needed(scenario)
    more = [one for d in (scenario.domain, scenario.other) for one in possible(d) if one not in wanted]
    purposes = wanted + rng.sample(more, difficulty.tools)
    rng.shuffle(purposes)
    style = rng.randrange(3)
    return tuple(
        ToolSpec(
            NAMES[operation][style].format(noun=noun, field=field),
            DESCRIPTIONS[operation].format(noun=noun, field=field),
            operation,
            noun,
            field,
        )
        for operation, noun, field in purposes
    )


def check_tools(scenario: Scenario, difficulty: Difficulty, tools: tuple[ToolSpec, ...]) -> None:
    """Raises ValueError unless the tools have different names, do what the goal needs, and are no more than asked."""
    if len({tool.name for tool in tools}) < len(tools):
        raise ValueError("tools: two have one name")
    everything = {*possible(scenario.domain), *possible(scenario.other)}
    if wrong := [tool.name for tool in tools if tool.purpose not in everything]:
        raise ValueError(f"tool {wrong[0]}: no such table or field")
    wanted = needed(scenario)
    if missing := [purpose for purpose in wanted if purpose not in [tool.purpose for tool in tools]]:
        raise ValueError(f"tools: none does {' '.join(missing[0]).strip()}")
    if len(tools) != len(wanted) + difficulty.tools:
        raise ValueError(f"tools: {len(tools)}, must be {len(wanted)} that are needed and {difficulty.tools} more")
