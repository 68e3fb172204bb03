"""Results are counted, written, read and added to; what sticks is a verdict; goals are of what is added."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

from faults.goals import GOALS, Goal
from faults.kinds import KINDS
from faults.outcome import Happened, Outcome
from faults.run import Performance
from faults.schedule import Planned
from faults.table import summary, table


def made() -> Outcome:
    outcome = Outcome(schedules=2, requests=30, answers=33, tokens=900, calm=[0.1, 0.2, 0.1])
    outcome.verdicts.update(
        ["lost: it has no ending (seed 1)", "lost: it has no ending (seed 1)", "stuck: it (seed 0)"]
    )
    outcome.faults.update(["killed", "killed"])
    outcome.stalls["killed, expert"] += [0.15, 0.45]
    return outcome


def test_a_result_is_read_as_it_was_written() -> None:
    written = json.loads(json.dumps(made().written()))
    assert (written["lost"], written["changed"], written["stuck"]) == (2, 0, 1)
    read = Outcome.read(written)
    assert read == made()
    read.add(made())
    assert (read.schedules, read.count("lost"), read.faults["killed"]) == (4, 4, 4)
    assert read.stalls["killed, expert"] == [0.15, 0.45, 0.15, 0.45]


def test_failures_are_all_that_is_not_as_it_should_be() -> None:
    outcome = made()
    outcome.without_effect.append("killed at expert-0 (seed 3)")
    assert outcome.failures == [
        "lost: it has no ending (seed 1), 2 times",
        "stuck: it (seed 0)",
        "killed at expert-0 (seed 3)",
    ]


def test_goals_are_of_what_a_fault_adds() -> None:
    goal = Goal(p99=0.1, longest=0.3)
    assert goal.is_met([0.15, 0.19], 0.1)
    assert not goal.is_met([0.15, 0.25], 0.1)
    assert not Goal(longest=0.3).is_met([0.15, 0.45], 0.1)
    assert {kind for kind, _ in GOALS} <= KINDS.keys()


def test_tables_say_what_is_missed_and_what_there_is_without_a_fault() -> None:
    lines = table(made()).splitlines()
    assert lines[2] == "| no fault | 3 | 0.10 | 0.20 | 0.20 |  |  |"
    assert lines[3] == "| killed, expert | 2 | 0.45 | 0.45 | 0.45 | p99 0.1, longest 0.3 | **missed** |"
    assert "2 requests lost, 0 answers changed, 1 schedules stuck" in summary(made())


class Broken:
    """A cluster of which nothing works."""

    def leader(self) -> str:
        return ""


def test_a_fault_that_cannot_be_made_is_said_and_the_others_happen() -> None:
    cluster: Any = Broken()
    performance = Performance(cluster, [Planned("redis full", "redis", 0.0, 0.1), Planned("reset", "redis", 0.0, 0.1)])
    performance.perform()
    assert [stuck.split(":")[0] for stuck in performance.stuck] == ["redis full at redis", "reset at redis"]
    assert not performance.happened

    class Refuses(Broken):
        """A Redis that is full at once, and well at once."""

        store = SimpleNamespace(client=SimpleNamespace(config_set=lambda *_: None, set=lambda *_, **__: None))

    cluster = Refuses()
    performance = Performance(cluster, [Planned("redis full", "redis", 0.0, 0.1), Planned("reset", "x", 0.0, 0.1)])
    performance.perform()
    assert performance.without_effect == ["redis full at redis"]
    assert [one.planned.kind for one in performance.happened] == ["redis full"]
    assert isinstance(performance.happened[0], Happened)
    assert len(performance.stuck) == 1
