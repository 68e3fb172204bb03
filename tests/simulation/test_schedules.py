"""Seeded schedules of faults around the real decisions, in virtual time. `make simulation` plays more of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from simulation.checks import Violation
from simulation.expert_links import BAD_LINK
from simulation.explore import OtherCode, earlier, explore, joined, result
from simulation.mutations import MUTATIONS, Mutation, TokenT
from simulation.router import LINK_AVOIDED
from simulation.schedule import FAULTS, schedule
from simulation.seeds import EARLIER, FOUND, MADE, ONE_EPOCH_TWICE
from simulation.world import play

from services.membership.redis import LEASE_MS
from services.router.placement.leader import LEADER_LEASE_MS
from services.router.requests.progress import GenerationProgress

SCHEDULES = 8 * len(FAULTS)
MOST_SEEDS = 500  # until a mutation has been found


def test_no_schedule_breaks_what_must_hold() -> None:
    found = explore(range(SCHEDULES))
    assert not found.violations
    assert set(found.faults) == set(FAULTS)
    assert found.tokens > 5 * SCHEDULES
    assert found.noticed.keys() >= {"attention worker is late", LINK_AVOIDED, BAD_LINK}


@pytest.mark.parametrize("name", FOUND | MADE)
def test_a_bug_that_was_found_stays_mended(name: str) -> None:
    plan = (FOUND | MADE)[name]
    with pytest.raises(Violation):
        play(plan, MUTATIONS[name])
    play(plan)


@pytest.mark.parametrize("seed", ONE_EPOCH_TWICE)
def test_no_epoch_is_given_twice_where_redis_loses_it(seed: int) -> None:
    before = MUTATIONS["a term that Redis loses is forgotten"]
    with pytest.raises(Violation, match="one table for an epoch"):
        play(EARLIER[seed], before)
    play(EARLIER[seed])
    play(EARLIER[seed], replace(before, excuses_epochs=True))  # nobody waits for ever where it is given twice


@pytest.mark.parametrize("name", sorted(MUTATIONS.keys() - FOUND.keys() - MADE.keys()))
def test_a_protocol_with_a_fault_is_found_out(name: str) -> None:
    assert explore(range(MOST_SEEDS), MUTATIONS[name], first=True).violations


class Failing(GenerationProgress):
    """Fails at the first token."""

    def accept(self, attempt: int, tokens: Sequence[TokenT]) -> Sequence[TokenT]:
        raise RuntimeError("a bug")


def test_an_error_is_a_violation_of_its_seed_and_the_others_are_played() -> None:
    found = explore(range(1, 4), Mutation(name="it fails", progress=Failing))
    assert found.schedules == 3
    assert found.violations == [(seed, "error: RuntimeError: a bug") for seed in range(1, 4)]


def test_faults_outlast_every_lease_in_a_quarter_of_the_schedules() -> None:
    lease_s = max(LEASE_MS, LEADER_LEASE_MS) / 1000
    long = [any(fault.seconds > lease_s for fault in schedule(seed).faults) for seed in range(400)]
    assert 0.1 < sum(long) / len(long) <= 0.35


def test_a_result_of_other_code_is_not_added_to(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    written = result(explore(range(1)), 1.0, 1, 0)
    path.write_text(json.dumps(written))
    assert joined(earlier(path), written)["schedules"] == 2
    path.write_text(json.dumps(written | {"code": "0"}))
    with pytest.raises(OtherCode, match="other code"):
        earlier(path)


def test_a_schedule_plays_the_same_again() -> None:
    assert play(schedule(7)) == play(schedule(7))
