"""Whole simulations: the same by seed, nothing lost, steps that are skipped change nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest
from support.small_simulation import scenario

from services.planner.traffic import Slo
from services.simulator.faults import Fault
from services.simulator.routing import Routing
from services.simulator.simulation import Played, play

CROWDED = scenario(60.0, 10.0, deployment={"pages": 60, "max_running": 8, "queue_timeout_s": 2.0})
STRUCK = scenario(
    faults=[
        Fault(at=4.0, kind="attention pod dies", ordinal=1),
        Fault(at=8.0, kind="expert pod dies", ordinal=2),
        Fault(at=12.0, kind="router dies", ordinal=1),
        Fault(at=14.0, kind="attention node lost", ordinal=0),
        Fault(at=15.0, kind="router dies", ordinal=0),
    ]
)


def seen(played: Played) -> list[tuple[object, ...]]:
    return [
        (g.arrived, g.prompt, g.answer, g.first, g.last, g.tokens, g.longest_gap, g.attempts, g.end, g.ended)
        for g in played.outcomes.generations
    ]


def test_a_seed_gives_the_same_to_the_last_bit_and_another_one_does_not() -> None:
    struck = replace(STRUCK, routing=Routing(exponent=0.8, drift_s=30.0))
    first, second, other = play(struck, 1), play(struck, 1), play(struck, 2)
    assert seen(first) == seen(second)
    assert first.outcomes.itl.counts == second.outcomes.itl.counts
    assert seen(first) != seen(other)


@pytest.mark.parametrize("struck", [scenario(), CROWDED, STRUCK], ids=["steady", "crowded", "struck"])
def test_every_request_ends_once_and_whoever_finished_has_all_tokens(struck: object) -> None:
    assert isinstance(struck, type(STRUCK))
    played = play(struck, 3)
    generations = played.outcomes.generations
    assert len(generations) > 100
    assert {g.ends for g in generations} == {1}
    assert not [g for g in generations if g.end == "open"]
    assert all(g.tokens == g.answer for g in generations if g.end == "finished")
    assert all(g.tokens <= g.answer for g in generations)
    assert sum(played.outcomes.tokens_by_bin.values()) == sum(g.tokens for g in generations)
    between = sum(max(0, g.tokens - 1) for g in generations)
    assert played.outcomes.itl.total == between


@pytest.mark.parametrize("struck", [scenario(), STRUCK], ids=["steady", "struck"])
def test_runs_of_steps_give_what_step_by_step_gives(struck: object) -> None:
    """But for what the step's cost has learned from: each step of a run, or the run once."""
    assert isinstance(struck, type(STRUCK))
    endless = replace(struck.deployment, max_itl_s=float("inf"), slowdown=float("inf"))
    quick = play(replace(struck, deployment=endless), 5)
    slow = play(replace(struck, deployment=endless, skip=False), 5)
    assert quick.steps == slow.steps
    for a, b in zip(quick.outcomes.generations, slow.outcomes.generations, strict=True):
        assert (a.end, a.tokens, a.attempts) == (b.end, b.tokens, b.attempts)
        assert (a.first, a.last) == pytest.approx((b.first, b.last), abs=1e-6)
        assert a.longest_gap == pytest.approx(b.longest_gap, abs=1e-6)


def test_pages_are_never_too_few_and_preempted_sequences_end_all_the_same() -> None:
    few = scenario(15.0, 10.0, deployment={"attention": 1, "pages": 40, "max_running": 16, "queue_timeout_s": 60.0})
    played = play(few, 1)
    assert played.preemptions > 0
    assert {g.end for g in played.outcomes.generations} == {"finished"}


def test_what_is_too_much_is_refused_or_waits_too_long() -> None:
    many = scenario(400.0, 6.0, deployment={"attention": 1, "queue_timeout_s": 1.0, "routers": 1})
    summary = play(many, 1).summary(Slo(ttft_s=5.0, itl_s=0.2))
    assert summary.ends.get("timeout", 0) + summary.ends.get("rejected", 0) > 100
    assert summary.goodput < summary.rate / 2


def test_a_request_that_fits_nowhere_fails_at_once() -> None:
    played = play(scenario(2.0, 5.0, deployment={"pages": 4}), 1)
    failed = [g for g in played.outcomes.generations if g.end == "failed"]
    assert failed
    assert all(g.tokens == 0 for g in failed)
