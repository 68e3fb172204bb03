"""A task: a scenario, its tools, what the user says and when, and how difficult all of it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

from training.agentic.difficulty import Difficulty
from training.agentic.scenario import Domain, Scenario
from training.agentic.toolset import ToolSpec, check_tools
from training.data.words.forms import ask
from training.data.words.vocabulary import Novelty

ScenarioRole = Callable[[Random, Difficulty, Novelty], Scenario]
ToolsRole = Callable[[Random, Scenario, Difficulty], tuple[ToolSpec, ...]]
REFERENCES = {
    "owner": "the {noun} of {value}",
    "city": "the {noun} in {value}",
    "room": "the {noun} in the {value}",
    "label": "the {noun} called {value}",
}


@dataclass(frozen=True)
class Task:
    """`said`: what the user says first, and what only when the agent asks, in this order."""

    name: str
    difficulty: Difficulty
    scenario: Scenario
    tools: tuple[ToolSpec, ...]
    declarations: tuple[dict[str, Any], ...]
    said: tuple[str, ...]


def reference(domain: Domain, number: int, by_finder: bool) -> str:
    """Returns how a user names a record."""
    if not by_finder:
        return f"{domain.noun} {number}"
    form = REFERENCES.get(domain.finder, "the {noun} whose {finder} is {value}")
    return form.format(noun=domain.noun, finder=domain.finder, value=domain.records[number][domain.finder])


def said(rng: Random, scenario: Scenario, difficulty: Difficulty, novelty: Novelty) -> tuple[str, ...]:
    """Returns the user's messages."""
    goal, domain = scenario.goal, scenario.domain
    source = goal.source
    values = {
        "record": reference(domain, goal.number, goal.by_finder),
        "field": goal.field,
        "noun": domain.noun,
        "value": goal.value if source is None else f"that of {reference(domain, source, goal.source_by_finder)}",
    }
    first, *later = _forms(difficulty.interaction, source is not None)
    return (ask(rng, first, novelty.forms, **values), *(rng.choice(form).format(**values) for form in later))


def _forms(interaction: int, from_record: bool) -> list[tuple[str, ...]]:
    """Returns the forms of each message. "Make the colour that of lamp 7" is no English, so it is left out there."""
    change = ["Set the {field}{record} to {value}.", "Change the {field}{record} to {value}."]
    if not from_record:
        change.append("Make the {field}{record} {value}.")
    if interaction == 0:
        return [tuple(form.replace("{record}", " of {record}") for form in change)]
    if interaction == 1:
        return [
            ("I want to change the {field} of {record}.", "The {field} of {record} is wrong."),
            ("Set it to {value}.", "Change it to {value}.", "To {value}."),
        ]
    opening = ("I want to change a {noun}.", "One {noun} needs a change.", "Can you change a {noun} for me?")
    which = ("I mean {record}.", "It is {record}.", "Take {record}.")
    return [opening, which, tuple(form.replace("{record}", "") for form in change)]


def make_task(
    name: str,
    difficulty: Difficulty,
    novelty: Novelty,
    scenario_role: ScenarioRole,
    tools_role: ToolsRole,
) -> Task:
    """Returns the task of this name. Raises ValueError when a role's work does not show the difficulty."""
    rng = Random(f"caracal task {name} {difficulty}")
    scenario = scenario_role(rng, difficulty, novelty)
    tools = tools_role(rng, scenario, difficulty)
    check_tools(scenario, difficulty, tools)
    declarations = tuple(tool.schema(rng) for tool in tools)
    return Task(name, difficulty, scenario, tools, declarations, said(rng, scenario, difficulty, novelty))
