"""What the benchmark of stalls counts, and that its file keeps what other runs have measured."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.stalls import results
from bench.stalls.callers import Answer, Callers, Expected, Load
from bench.stalls.kinds import KINDS
from bench.stalls.measure import Arm, Found, Sizes, quantile

LOAD = Load(callers=2, prompt=16, answer=100)


def answer(times: list[float], began: float = 0.0) -> Answer:
    return Answer(began=began, tokens=[(7, number) for number in range(len(times))], times=times)


def test_one_stall_among_thousands_of_tokens_is_the_longest_of_its_stream() -> None:
    callers = Callers("", LOAD)
    even = [0.01 * step for step in range(1000)]
    callers.answers = [[answer(even)], [answer([one + 2.0 * (one > 5) for one in even])]]
    assert callers.longest_gaps(4, 9) == [pytest.approx(0.01), pytest.approx(2.01)]
    assert quantile([later - earlier for earlier, later in callers.gaps(0, 99)], 0.99) == pytest.approx(0.01)


def test_a_stall_that_goes_on_beyond_the_end_counts_whole_and_one_between_answers_does_not() -> None:
    callers = Callers("", LOAD)
    callers.answers = [[answer([0.0, 1.0, 8.0])], [answer([0.0, 1.0]), answer([7.0, 7.1], began=2.0)]]
    assert callers.longest_gaps(2, 4) == [7.0]
    assert callers.first_tokens(1, 4) == [5.0]


def test_cut_answers_are_compared_with_the_longest_one() -> None:
    expected, whole = Expected(1), answer([0.0, 1.0, 2.0])
    cut = Answer(tokens=whole.tokens[:2])
    assert expected.changed([[cut, whole, cut]]) == 0
    assert expected.changed([[Answer(tokens=[(7, 0), (8, 1)])]]) == 1


def found(stalls: list[float]) -> Found:
    arm = Arm(stalls=stalls, later=[0.01], late_until=[0.0])
    return Found(control=Arm(stalls=[0.02], later=[0.01], late_until=[0.0]), fault=arm, rounds=1)


def test_goals_are_missed_by_one_stream_of_one_round() -> None:
    kind = KINDS["expert-killed"]
    goals = {one["what"]: one["met"] for one in results.goals_of(kind, found([0.05] * 199 + [0.31]))}
    assert goals == {"p99": True, "max": False, "lost": True, "changed": True}
    late = results.goals_of(KINDS["expert-late"], found([0.6]))
    assert {one["what"]: one["value"] for one in late} == {"late_until": 0, "times": 1, "lost": 0, "changed": 0}


def test_the_file_keeps_kinds_of_other_runs(tmp_path: Path) -> None:
    assert results.read(tmp_path) == {}
    kinds = {name: results.entry(KINDS[name], LOAD, Sizes(), found([0.05])) for name in ("expert-killed", "node-cut")}
    results.write(tmp_path, kinds)
    assert results.read(tmp_path) == kinds
    results.write(tmp_path, kinds | {"node-cut": results.failed(KINDS["node-cut"], "needs root")})
    assert (tmp_path / "stalls.md").read_text().count("\n| ") == 3
    assert "not measured: needs root" in (tmp_path / "stalls.md").read_text()


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_says_what_fails(name: str) -> None:
    assert KINDS[name].what
    assert KINDS[name].load.callers
