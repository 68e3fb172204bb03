"""The best deployment within an SLO: as good as any that a finer search finds, and its promises hold."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from services.cli.planning.question import Question, machine_of
from services.planner.answer import after_loss, most_within
from services.planner.deployment import Machine, Way, evaluate, room
from services.planner.search import Layout, best, fits, frontier, fullest, least_devices, least_experts
from services.planner.traffic import Slo, Traffic

TRAFFIC, SLO = Traffic(), Slo(itl_s=0.05, ttft_s=5.0)


def machine(gpu: str = "h800", model: str = "flash-chat", replicas: int = 1) -> Machine:
    return machine_of(Question(model=model, gpu=gpu, gpus=8, traffic=TRAFFIC, slo=SLO, replicas=replicas))


@pytest.mark.parametrize("way", ["separate", "prefill apart"])
def test_no_split_nearby_is_better(way: Way) -> None:
    m, devices = machine("h20"), 24
    one = best(m, devices, TRAFFIC, SLO)[way]
    same, tp, place = replace(m, serving=one.serving), one.serving.tp, 1 if way == "separate" else 2
    for move in (-2 * tp, -tp, tp, 2 * tp):
        split = (one.attention - move, one.experts + move * (place == 1), one.prefill + move * (place == 2))
        most = room(same, way, split, TRAFFIC)
        if most and (near := fullest(Layout(same, way, split, most), TRAFFIC, SLO)) is not None:
            fewer = way == "separate" and split[1] < least_experts(same)
            assert fewer or near.rate <= one.rate


@pytest.mark.parametrize("gpu", ["h800", "h20", "b200"])
def test_the_best_is_no_worse_than_any_of_the_frontier(gpu: str) -> None:
    m = machine(gpu)
    chosen = best(m, 64, TRAFFIC, SLO)
    for one in frontier(m, 64, TRAFFIC):
        assert one.within(SLO, TRAFFIC) <= 1.001 * chosen[one.way].rate


def test_one_more_sequence_would_break_the_slo_or_the_memory() -> None:
    m = machine()
    for way, one in best(m, 64, TRAFFIC, SLO).items():
        more = evaluate(replace(m, serving=one.serving), way, one.split, one.sequences + 1, TRAFFIC)
        full = one.memory.sequences(TRAFFIC.prompt + TRAFFIC.answer) == one.sequences
        assert full or not more.holds(SLO)


@pytest.mark.parametrize("ttft_s", [0.6, 1.0, 5.0])
def test_the_first_token_is_in_time_at_the_rate_that_is_said(ttft_s: float) -> None:
    slo = Slo(itl_s=0.05, ttft_s=ttft_s)
    for one in best(machine(), 32, TRAFFIC, slo).values():
        assert one.ttft_percentile_s(TRAFFIC, one.rate) <= ttft_s
        assert one.ttft_percentile_s(TRAFFIC, min(one.full, 1.01 * one.rate)) > ttft_s
        assert one.rate < one.full


def test_longer_waits_are_allowed_so_more_is_served() -> None:
    m = machine()
    rates = [most_within(m, 32, TRAFFIC, Slo(itl_s=0.05, ttft_s=ttft)) for ttft in (0.01, 0.5, 1.0, 5.0, math.inf)]
    assert rates == sorted(rates)
    assert rates[0] == 0 < rates[1]


@pytest.mark.parametrize("model", ["flash-chat", "flash-lite", "deepseek-v3"])
@pytest.mark.parametrize("prompt", [100.0, 60000.0])
def test_the_fewest_devices_hold_it_and_fewer_do_not(model: str, prompt: float) -> None:
    m, traffic = machine(model=model), Traffic(prompt=prompt)
    least = least_devices(m, traffic, 8192)
    assert frontier(m, least, traffic)
    assert not any(fits(m, fewer, traffic) for fewer in range(max(1, least - 8), least))


def test_a_sequence_takes_whole_pages() -> None:
    memory = evaluate(machine(), "colocated", (16, 0, 0), 1, TRAFFIC).memory
    assert memory.sequences(64) == memory.pages
    assert memory.sequences(65) == memory.pages // 2


def test_prompts_of_any_share_are_answered() -> None:
    """Where a request is nearly all prompt, little time is left to answers; that is no lack of memory."""
    chosen = best(machine(), 64, Traffic(prompt=20000, answer=1), Slo(ttft_s=5.0))
    assert chosen["colocated"].rate > 0


def test_a_spare_replica_is_what_is_left_after_a_loss() -> None:
    m = machine(replicas=2)
    one = best(m, 64, TRAFFIC, SLO)["separate"]
    assert 0 < after_loss(m, one, TRAFFIC, SLO) < 1
    assert one.experts >= 2 * 8


def test_workers_run_no_more_than_a_step_holds() -> None:
    m = machine("cpu", "models/caracal-tiny")
    chosen = best(m, 4, Traffic(prompt=10, answer=10), Slo())
    assert max(one.sequences for one in chosen.values()) == 256
    m = machine("h200", "flash-lite")
    for one in best(m, 64, Traffic(prompt=10, answer=10), Slo()).values():
        assert one.sequences * (1 + one.serving.drafts) <= 4096
