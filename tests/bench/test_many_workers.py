"""What the benchmark of many expert workers counts: whole steps of all streams, and what more messages cost."""

from __future__ import annotations

from dataclasses import asdict

import pytest

from bench.compiled import CannotMeasure
from bench.decode_load import Load, Sums, Turn
from bench.documents import many_workers_text
from bench.many_workers import SMOKE, Plan, ratio_and_costs
from services.attention_worker.engine.sequence import Ending, TokenOut


def token(number: int) -> list[TokenOut]:
    return [TokenOut(index=number, id=number, logits_checksum=7)]


class Steps:
    """Counters that grow with every step: 2 ms, half of them waited, 5 messages."""

    def __init__(self) -> None:
        self.done = 0

    def __call__(self) -> Sums:
        n = self.done
        return Sums(at_s=0.002 * n, steps=n, waited_s=0.001 * n, messages=5 * n, attention_cpu_s=n, expert_cpu_s=2 * n)


def test_sums_are_of_the_steps_in_which_every_stream_decodes() -> None:
    steps = Steps()
    load = Load(2, steps)
    first, second = load.stream(), load.stream()
    for number in range(5):
        steps.done += 1
        first(token(number), None)
        if number >= 1:  # the second one's prompt took a step longer
            second(token(10 + number), Ending("length") if number == 4 else None)
    first([], Ending("length"))
    turn = load.result()
    assert load.answers == [[(n, 7) for n in range(5)], [(n, 7) for n in range(11, 15)]]
    assert turn.own_ms == pytest.approx(1.0)
    assert (turn.messages, turn.attention_cpu_ms, turn.expert_cpu_ms) == (5, 1000, 2000)
    assert 0 < turn.step_ms < 1000


def test_a_stream_that_failed_is_no_measurement() -> None:
    load = Load(2, Steps())
    load.stream()([], Ending("failed", message="no experts"))
    load.stream()([], Ending("length"))
    with pytest.raises(CannotMeasure, match="no experts"):
        load.result()


def test_the_ratio_is_of_steps_and_the_cost_of_the_messages_that_came_on_top() -> None:
    few, many = Turn(10.0, 4.0, 100, 5.0, 6.0), Turn(11.5, 4.5, 600, 5.25, 7.0)
    found = ratio_and_costs(few, many)
    assert found["ratio"] == pytest.approx(1.15)
    assert not found["met"]
    assert found["us_per_message"] == pytest.approx({"own": 1.0, "attention_cpu": 0.5, "expert_cpu": 2.0})


def test_every_expert_worker_has_an_expert_in_every_layer() -> None:
    for plan in (Plan(), SMOKE):
        assert plan.overrides["n_routed_experts"] == max(plan.workers)
        assert plan.overrides["n_routed_experts"] % min(plan.workers) == 0


def test_the_document_shows_both_and_the_verdict() -> None:
    turns = {"4": Turn(10.0, 4.0, 100, 5.0, 6.0), "64": Turn(10.5, 4.5, 600, 5.25, 7.0)}
    found = ratio_and_costs(*turns.values()) | {
        "machine": {"cpu": "a CPU", "cores": 2, "kernels": "avx2", "time": "now"},
        "plan": {"workers": [4, 64], "streams": 32},
        "workers": {name: {"median": asdict(turn)} for name, turn in turns.items()},
    }
    text = many_workers_text(found)
    assert "1.050 times as long over 64 expert workers as over 4 (goal ≤ 1.10)" in text
    assert "| 64 | 10.5 | 4.5 | 5.25 | 7 | 600 |" in text
