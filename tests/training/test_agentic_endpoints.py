"""Agents and roles behind an OpenAI-compatible endpoint, over real sockets."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
from support.chat_endpoint import ChatEndpoint

from training.agentic.bench import held_out_tasks, measure, summary
from training.agentic.casting import Cast, cast, parse_roles
from training.agentic.demonstrations import Solver, program_task, shown, solution
from training.agentic.difficulty import Difficulty
from training.agentic.endpoint import KEY, Endpoint, EndpointAgent, EndpointError, EndpointUnavailable
from training.agentic.endpoint_roles import BE_CHECKER, BE_ENVIRONMENT, BE_USER, DESIGN_TOOLS, INVENT_DOMAIN, TRIES
from training.agentic.environment import Environment
from training.agentic.episode import play
from training.agentic.scenario import Scenario, as_json, from_json
from training.agentic.scenarios import domain, scenario
from training.agentic.task import Task
from training.agentic.toolset import NAMES, OPERATIONS, ToolSpec, program_tools
from training.data.words.vocabulary import SEEN

Body = dict[str, Any]
REPO = Path(__file__).resolve().parents[2]
SEED = 1_000_001


def solving(tasks: list[Task], tries: Callable[[int], bool] = lambda seed: True) -> Callable[[Body], Body]:
    """A model that knows the tasks, and gives up where `tries` says so of a request's seed."""
    by_prompt = {(task.said[0], json.dumps(list(task.declarations))): task for task in tasks}

    def answer(body: Body) -> Body:
        task = by_prompt[body["messages"][0]["content"], json.dumps(body["tools"])]
        if not tries(body["seed"]):
            return {"role": "assistant", "content": "I cannot."}
        reply = Solver(task).reply(body["messages"], ())
        for call in reply.get("tool_calls", ()):
            call["id"] = "an id of the server's own"
        return reply

    return answer


def test_the_benchmark_counts_end_states() -> None:
    tasks = held_out_tasks(Cast(), SEED, 40)
    assert {words for _, words in tasks} == {"seen", "unseen"}
    assert len({task.difficulty for task, _ in tasks}) == 20
    with ChatEndpoint(solving([task for task, _ in tasks])) as server:
        result = summary(measure(Endpoint.open(server.url), Cast(), tasks, 4, 1.0, 8))
    assert (result["pass^1"], result["pass^4"], result["endings"]) == (1.0, 1.0, {"done": 160})
    first = [body["seed"] for body in server.bodies if len(body["messages"]) == 1]
    assert len(first) == len(set(first)) == 160, "every trial is a sample of its own"
    with ChatEndpoint(solving([task for task, _ in tasks], lambda seed: seed % 3 != 0)) as server:
        result = summary(measure(Endpoint.open(server.url), Cast(), tasks, 4, 1.0, 8))
    assert 0.2 < result["pass^1"] < 0.9
    assert result["pass^4"] < result["pass^1"]
    assert set(result["by_axis"]) == {"information", "tools", "interaction", "words"}


@pytest.mark.processes
def test_the_benchmarks_command_writes_what_it_shows(tmp_path: Path) -> None:
    tasks = held_out_tasks(Cast(), SEED, 4)
    out = tmp_path / "bench.json"
    with ChatEndpoint(solving([task for task, _ in tasks])) as server:
        command = [sys.executable, "-m", "training.agentic.bench", "--url", server.url, "--tasks", "4", "--trials", "2"]
        done = subprocess.run([*command, "--out", str(out)], cwd=REPO, capture_output=True, text=True, check=True)
    assert "pass^2 first" in done.stdout
    assert json.loads(out.read_text())["pass^2"] == 1
    refused = subprocess.run([*command[:3], "--role", "judge=http://x"], cwd=REPO, capture_output=True, text=True)
    assert refused.returncode == 2
    assert "must be ROLE=URL, with one of scenario, tools, user, environment, checker" in refused.stderr


def test_a_failing_endpoint_ends_the_episode_with_its_words() -> None:
    def refuse(body: Body) -> Body:
        raise ValueError("too long")

    task = program_task("refused", Difficulty(), SEEN)
    with ChatEndpoint(refuse) as server:
        episode = play(task, EndpointAgent(Endpoint.open(f"{server.url}/v1#second"), "a", 0.0, 8))
        assert server.bodies[0]["model"] == "second"
    assert "400" in episode.ending
    assert "too long" in episode.ending
    with pytest.raises(EndpointError, match="127"):
        Endpoint.open(server.url)


def test_a_server_that_is_not_ready_is_asked_again_and_is_no_verdict() -> None:
    task, asked = program_task("later", Difficulty(), SEEN), [0]

    def later(body: Body) -> Body:
        asked[0] += 1
        if asked[0] < 3:
            raise RuntimeError("not yet")
        return Solver(task).reply(body["messages"], ())

    with ChatEndpoint(later) as server:
        assert play(task, EndpointAgent(Endpoint.open(server.url), "a", 0.0, 8)).success
        asked[0] = -100
        impatient = Endpoint.open(server.url, retry_s=0.0)
        with pytest.raises(EndpointUnavailable, match=r"503: .*not yet"):
            play(task, EndpointAgent(impatient, "a", 0.0, 8))
    with pytest.raises(EndpointUnavailable):
        impatient.chat([])


def test_a_key_of_the_environment_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY, "secret")
    with ChatEndpoint(lambda body: {"content": "hi"}) as server:
        assert Endpoint.open(server.url).chat([{"role": "user", "content": "x"}]) == {"content": "hi"}
        assert server.keys == ["Bearer secret"]


class Playing:
    """A server that plays every role as the programs do, and counts them. `broken` answers are wrong first."""

    def __init__(self, made: Scenario, difficulty: Difficulty, task: Task, broken: int = 0) -> None:
        self.domains, self.difficulty, self.task = [made.domain, made.other], difficulty, task
        self.made, self.broken = made, broken
        self.asked: dict[str, int] = {}

    def __call__(self, body: Body) -> Body:
        instruction = body["messages"][0]["content"]
        self.asked[instruction] = self.asked.get(instruction, 0) + 1
        if instruction == BE_USER:
            content: str = body["messages"][1]["content"].partition("Say now: ")[2]
            return {"role": "assistant", "content": content}
        if self.asked[instruction] <= self.broken:
            return {"role": "assistant", "content": '{"noun": 5}'}
        content = json.dumps(self.answer(instruction, json.loads(body["messages"][1]["content"])))
        assert body["response_format"]["json_schema"]["schema"]
        return {"role": "assistant", "content": content}

    def answer(self, instruction: str, asked: Body) -> Any:
        if instruction == INVENT_DOMAIN:
            one = self.domains[bool(asked["other noun than"])]
            fields = {name: list(values) for name, values in one.fields.items()}
            records = {str(number): record for number, record in one.records.items()}
            return {"noun": one.noun, "finder": one.finder, "fields": fields, "records": records}
        if instruction == DESIGN_TOOLS:
            more = [one for one in asked["possible"] if one not in asked["needed"]]
            purposes = (asked["needed"] + more)[: asked["count"]]
            keys = ("operation", "noun", "field")
            return [
                {"name": NAMES[one[0]][1].format(noun=one[1], field=one[2]), "description": "d"}
                | dict(zip(keys, one, strict=True))
                for one in purposes
            ]
        if instruction == BE_ENVIRONMENT:
            environment = Environment(from_json(asked["state"]), self.task.tools)
            result = environment.call(asked["call"]["name"], asked["call"]["arguments"])
            return {"state": as_json(environment.state), "result": result}
        assert instruction == BE_CHECKER
        wanted = asked["start"]
        change = {key: value for key, value in asked["change"].items() if key not in ("noun", "number")}
        wanted[asked["change"]["noun"]][str(asked["change"]["number"])] |= change
        return {"success": wanted == asked["end"]}


def playing(difficulty: Difficulty, broken: int = 0) -> Playing:
    made = scenario(Random("roles"), difficulty, SEEN)
    return Playing(made, difficulty, program_task("unused", difficulty, SEEN), broken)


def test_any_role_can_be_an_endpoint() -> None:
    difficulty = Difficulty(3, 2, 2)
    role = playing(difficulty, broken=2)
    with ChatEndpoint(role) as server:
        roles = [f"{name}={server.url}" for name in ("scenario", "tools", "user", "environment", "checker")]
        maker = cast(parse_roles(roles))
        role.task = task = maker.task("by endpoints", difficulty, SEEN)
        assert shown(solution(task)) == difficulty
        episode = play(task, Solver(task), maker.roles)
    assert episode.success
    assert [message["content"] for message in episode.messages if message["role"] == "user"] == list(task.said)
    assert set(role.asked) == {INVENT_DOMAIN, DESIGN_TOOLS, BE_USER, BE_ENVIRONMENT, BE_CHECKER}
    assert shown(episode) == difficulty


def test_a_role_that_never_answers_rightly_is_an_error() -> None:
    difficulty = Difficulty()
    fault = f"no valid answer in {TRIES} tries: .*records"
    with ChatEndpoint(playing(difficulty, broken=TRIES)) as server, pytest.raises(EndpointError, match=fault):
        cast(parse_roles([f"scenario={server.url}"])).task("never", difficulty, SEEN)


def test_an_environment_endpoint_may_not_drop_records() -> None:
    task = program_task("dropped", Difficulty(), SEEN)
    with ChatEndpoint(lambda body: {"content": json.dumps({"state": {}, "result": {"ok": True}})}) as server:
        environment = cast(parse_roles([f"environment={server.url}"])).roles.environment(task.scenario, task.tools)
        with pytest.raises(EndpointError, match="other records or fields"):
            environment.call(task.tools[0].name, {})
    assert environment.state == task.scenario.start()


def test_operations_have_names() -> None:
    assert set(NAMES) == set(OPERATIONS)
    tools = program_tools(Random(1), scenario(Random(1), Difficulty(), SEEN), Difficulty())
    assert isinstance(tools[0], ToolSpec)
    assert domain(Random(2), SEEN, without="lamp").noun != "lamp"
