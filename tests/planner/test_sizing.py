"""Counts of processes and what they hold, for each way."""

from __future__ import annotations

import json
from pathlib import Path

from services.cli.planning.page import to_dict, verdict
from services.cli.planning.question import Found, Question, ask
from services.cli.planning.sizing import ROUTER_TOKENS_S, sizing
from services.planner.traffic import Slo, Traffic

GATEWAY = Path(__file__).resolve().parents[2] / "bench" / "results" / "gateway.json"
SLO = Slo(itl_s=0.05, ttft_s=5.0)


def found(replicas: int = 1, acceptance: float = 0.8) -> Found:
    return ask(
        Question(
            model="flash-chat",
            gpu="h800",
            gpus=64,
            replicas=replicas,
            acceptance=acceptance,
            traffic=Traffic(),
            slo=SLO,
        )
    )


def test_a_router_streams_what_one_was_measured_with() -> None:
    """The most tokens a second at which one core is no more than half busy and p99 of what it adds is below 10 ms."""
    rows = json.loads(GATEWAY.read_text())["rows"]
    calm = [row["tokens_per_s"] for row in rows if row["core_share"] <= 0.5 and row["added_ms"]["p99"] < 10]
    assert max(calm) == 9991
    assert abs(ROUTER_TOKENS_S / max(calm) - 1) < 0.01
    plan = found()
    for one in plan.answer.chosen.values():
        size = sizing(plan.machine, one, Traffic())
        assert size.routers >= 2
        assert size.routers * ROUTER_TOKENS_S >= one.tokens_s(Traffic())


def test_devices_of_prompts_alone_are_counted() -> None:
    plan = found()
    one = plan.answer.chosen["prefill apart"]
    size = sizing(plan.machine, one, Traffic())
    assert size.prompt_devices == one.prefill > 0
    assert one.attention + one.prefill == 64
    assert ("devices of prompts alone, each with its share of the experts", str(one.prefill)) in size.rows()
    assert sizing(plan.machine, plan.answer.chosen["separate"], Traffic()).prompt_devices == 0


def test_replicas_are_those_that_were_given_and_take_memory() -> None:
    once, twice = found(), found(replicas=2)
    sizes = [sizing(one.machine, one.answer.chosen["separate"], Traffic()) for one in (once, twice)]
    assert [size.replicas for size in sizes] == [1, 2]
    for size in sizes:
        assert size.experts_per_worker * size.expert_workers >= 28 * 512 * size.replicas
        assert size.experts_per_worker <= size.experts_fit
    assert twice.answer.chosen["separate"].rate <= once.answer.chosen["separate"].rate


def test_the_reason_is_about_the_way_that_wins() -> None:
    plan = found()
    assert plan.answer.winner.way == "prefill apart"
    one = plan.answer.winner
    assert f"together, prompts on {one.prefill} more" in verdict(plan)
    assert f"{one.sequences} on each of {one.workers}" in verdict(plan)


def test_the_page_says_how_many_signs_were_tested() -> None:
    plan = found()
    right, tested = plan.answer.tested_signs
    said = f"in {right} of {tested} that it was tested on, and 4 of 4 that it was fitted on"
    assert said in verdict(plan)
    assert to_dict(plan)["right_signs"] == {"tested": [right, tested], "fitted": [4, 4]}
    assert plan.answer.clear == (plan.answer.margin > plan.answer.decisive)


def test_drafts_that_are_seldom_right_serve_less() -> None:
    assert found(acceptance=0.1).answer.winner.rate < found(acceptance=0.9).answer.winner.rate
