"""Tasks show the difficulty that was asked for, their environments execute, and the end state decides."""

from __future__ import annotations

import re
from collections.abc import Callable
from random import Random
from typing import Any

import pytest

from training.agentic.demonstrations import Solver, program_task, shown, solution
from training.agentic.difficulty import AXES, Difficulty
from training.agentic.environment import program_environment
from training.agentic.episode import AgentFailed, play
from training.agentic.passes import Tried, by_axis, mean_passes, pass_power
from training.agentic.scenario import Domain, as_json, from_json
from training.agentic.scenarios import scenario
from training.agentic.toolset import ToolSpec, check_tools, needed, program_tools
from training.agentic.users import Message
from training.data.words.vocabulary import SEEN, UNSEEN_ALL, Novelty

HARD = Difficulty(3, 4, 2)


class Scripted:
    """An agent whose replies a function of the number of the reply gives."""

    def __init__(self, reply: Callable[[int], Message]) -> None:
        self.script = reply

    def reply(self, messages: list[Message], tools: tuple[dict[str, Any], ...]) -> Message:
        return self.script(sum(message["role"] == "assistant" for message in messages))


def say(text: str) -> Message:
    return {"role": "assistant", "content": text}


def call(name: str, arguments: str) -> Message:
    return {"content": None, "tool_calls": [{"id": "x", "function": {"name": name, "arguments": arguments}}]}


@pytest.mark.parametrize("novelty", [SEEN, UNSEEN_ALL], ids=["seen", "unseen"])
def test_every_axis_is_the_number_that_the_solution_shows(novelty: Novelty) -> None:
    for difficulty in Difficulty.all():
        for number in range(6):
            episode = solution(program_task(f"axis {number}", difficulty, novelty))
            assert episode.success
            assert episode.ending == "done"
            assert shown(episode) == difficulty, episode.messages


def test_a_name_determines_a_task() -> None:
    assert program_task("one", HARD, SEEN) == program_task("one", HARD, SEEN)
    assert program_task("one", HARD, SEEN) != program_task("two", HARD, SEEN)


def test_levels_are_bounded() -> None:
    with pytest.raises(ValueError, match="information is 4, must be 0 to 3"):
        Difficulty(information=4)
    assert len(list(Difficulty.all())) == 60


def test_what_an_agent_says_is_no_success() -> None:
    task = program_task("talk", Difficulty(), SEEN)
    episode = play(task, Scripted(lambda step: say("Done.")))
    assert (episode.success, episode.ending) == (False, "done")


def test_a_right_change_beside_a_wrong_one_is_no_success() -> None:
    task = program_task("too much", Difficulty(), SEEN)
    goal, noun = task.scenario.goal, task.scenario.domain.noun
    other = next(number for number in task.scenario.domain.records if number != goal.number)
    change = f'{{"{noun}": %d, "{goal.field}": "{goal.value}"}}'
    numbers = [goal.number, other]
    if task.scenario.domain.records[other][goal.field] == goal.value:
        change = change.replace(goal.value, "none of them")
    script = Scripted(lambda step: call(task.tools[0].name, change % numbers[step]) if step < 2 else say("Done."))
    episode = play(task, script)
    assert len(episode.calls) == 2
    assert not episode.success


def test_a_task_is_solved_by_a_call_alone() -> None:
    """The end state decides, also where the agent fails afterwards."""

    def reply(step: int) -> Message:
        if step:
            raise AgentFailed("gone")
        goal, noun = task.scenario.goal, task.scenario.domain.noun
        return call(task.tools[0].name, f'{{"{noun}": {goal.number}, "{goal.field}": "{goal.value}"}}')

    task = program_task("short", Difficulty(), SEEN)
    episode = play(task, Scripted(reply))
    assert (episode.success, episode.ending) == (True, "gone")


def test_broken_arguments_end_an_episode_and_endless_ones_are_cut() -> None:
    task = program_task("broken", Difficulty(), SEEN)
    assert play(task, Scripted(lambda step: call("x", "{broken"))).ending == "broken call"
    episode = play(task, Scripted(lambda step: call("x", "{}")))
    assert episode.ending == "too long"
    assert episode.calls[0].result == {"error": "no tool x"}


def test_calls_that_cannot_be_executed_change_nothing() -> None:
    task = program_task("errors", Difficulty(information=3), SEEN)
    environment = program_environment(task.scenario, task.tools)
    set_tool = next(tool for tool in task.tools if tool.operation == "set")
    noun, field = set_tool.noun, set_tool.field
    for arguments, error in (
        ({}, f"{noun} is missing"),
        ({noun: 5, field: "red"}, f"no such {noun}"),
        ({noun: "5", field: "red"}, f"{noun} is no integer"),
        ({noun: True, field: "red"}, f"{noun} is no integer"),
        ({noun: 5, field: "red", "more": 1}, "more is unknown"),
    ):
        assert environment.call(set_tool.name, arguments) == {"error": error}
    assert environment.state == task.scenario.start()
    get_tool = next(tool for tool in task.tools if tool.operation == "get")
    number, record = next(iter(task.scenario.domain.records.items()))
    result = environment.call(get_tool.name, {noun: number})
    assert result == record
    result[field] = "changed by its reader"
    assert environment.state == task.scenario.start()


def test_the_user_says_the_rest_only_when_asked() -> None:
    task = program_task("ask", Difficulty(interaction=2), SEEN)
    episode = play(task, Solver(task))
    said = [message["content"] for message in episode.messages if message["role"] == "user"]
    assert said == list(task.said)
    assert len(said) == 3
    goal = task.scenario.goal
    assert goal.value not in said[0] + said[1]
    assert str(goal.number) in said[1]


def domain(**changes: Any) -> Domain:
    good: dict[str, Any] = {
        "noun": "lamp",
        "finder": "room",
        "fields": {"colour": ("red", "blue")},
        "records": {1: {"room": "hall", "colour": "red"}, 2: {"room": "attic", "colour": "blue"}},
    }
    return Domain(**good | changes)


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"noun": "Lamp 1"}, "'Lamp 1' is no name"),
        ({"fields": {"colour": ("red",)}}, "colour needs two values"),
        ({"fields": {"room": ("red", "blue")}}, "needs fields other than room"),
        ({"records": {1: {"room": "hall", "colour": "red"}}}, "two records or more"),
        (
            {"records": {1: {"room": "a", "colour": "red"}, 2: {"room": "a", "colour": "red"}}},
            "two records have one room",
        ),
        ({"records": {1: {"room": "a", "colour": "pink"}, 2: {"room": "b", "colour": "red"}}}, "no such colour"),
        ({"records": {1: {"room": "a"}, 2: {"room": "b", "colour": "red"}}}, r"record 1 has the fields \['room'\]"),
    ],
)
def test_a_wrong_domain_is_refused(changes: dict[str, Any], fault: str) -> None:
    domain()
    with pytest.raises(ValueError, match=fault):
        domain(**changes)


def test_wrong_tools_are_refused() -> None:
    rng = Random(1)
    made = scenario(rng, HARD, SEEN)
    tools = program_tools(rng, made, HARD)
    check_tools(made, HARD, tools)
    spare = next(tool for tool in tools if tool.purpose not in needed(made))
    with pytest.raises(ValueError, match="6, must be 3 that are needed and 4 more"):
        check_tools(made, HARD, tuple(tool for tool in tools if tool is not spare))
    with pytest.raises(ValueError, match=f"none does set {made.domain.noun}"):
        check_tools(made, HARD, tuple(tool for tool in tools if tool.purpose != needed(made)[-1]))
    with pytest.raises(ValueError, match="two have one name"):
        check_tools(made, HARD, (*tools, tools[0]))
    with pytest.raises(ValueError, match="no such table or field"):
        check_tools(made, HARD, (*tools, ToolSpec("more", "", "get", "nothing")))
    with pytest.raises(ValueError, match="operation 'drop'"):
        ToolSpec("more", "", "drop", "lamp")


def test_states_survive_json() -> None:
    state = program_task("json", HARD, SEEN).scenario.start()
    assert from_json(as_json(state)) == state
    with pytest.raises(ValueError, match="state: "):
        from_json({"lamp": [1]})


def test_passes_are_those_of_tau_bench() -> None:
    assert pass_power(3, 4, 1) == 0.75
    assert pass_power(3, 4, 2) == 0.5
    assert pass_power(3, 4, 4) == 0
    with pytest.raises(ValueError, match=r"pass\^4 needs 4 trials"):
        pass_power(1, 3, 4)
    tried = [Tried("a", Difficulty(0, 1, 0), "seen", 4, 4), Tried("b", Difficulty(1, 1, 0), "unseen", 1, 4)]
    assert mean_passes(tried, (1, 4)) == {"tasks": 2, "pass^1": 0.625, "pass^4": 0.5}
    axes = by_axis(tried, (1, 4))
    assert set(axes) == {*AXES, "words"}
    assert axes["information"]["1"] == {"tasks": 1, "pass^1": 0.25, "pass^4": 0}
    assert axes["words"]["seen"]["pass^4"] == 1


def test_declarations_do_not_give_the_solution_away() -> None:
    for number in range(30):
        task = program_task(f"secret {number}", HARD, SEEN)
        assert task.scenario.goal.value not in re.findall(r"\w+", str(task.declarations))
