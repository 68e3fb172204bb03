"""Seeded schedules of faults around the real decisions, in virtual time. `make simulation` plays more of them."""

from __future__ import annotations

from dataclasses import replace

import pytest
from simulation.checks import Violation
from simulation.explore import explore
from simulation.mutations import MUTATIONS
from simulation.schedule import FAULTS, schedule
from simulation.seeds import FOUND, ONE_EPOCH_TWICE
from simulation.world import play

SCHEDULES = 8 * len(FAULTS)
MOST_SEEDS = 500  # until a mutation has been found


def test_no_schedule_breaks_what_must_hold() -> None:
    found = explore(range(SCHEDULES))
    assert not found.violations
    assert set(found.faults) == set(FAULTS)
    assert found.tokens > 5 * SCHEDULES


@pytest.mark.parametrize("name", FOUND)
def test_a_bug_that_was_found_stays_mended(name: str) -> None:
    with pytest.raises(Violation):
        play(FOUND[name], MUTATIONS[name])
    play(FOUND[name])


@pytest.mark.parametrize("seed", ONE_EPOCH_TWICE)
def test_no_epoch_is_given_twice_where_redis_loses_it(seed: int) -> None:
    before = MUTATIONS["a term that Redis loses is forgotten"]
    with pytest.raises(Violation, match="one table for an epoch"):
        play(schedule(seed), before)
    play(schedule(seed))
    play(schedule(seed), replace(before, excuses_epochs=True))  # nobody waits for ever where it is given twice


@pytest.mark.parametrize("name", sorted(MUTATIONS.keys() - FOUND.keys()))
def test_a_protocol_with_a_fault_is_found_out(name: str) -> None:
    assert explore(range(MOST_SEEDS), MUTATIONS[name], first=True).violations


def test_a_schedule_plays_the_same_again() -> None:
    assert play(schedule(7)) == play(schedule(7))
