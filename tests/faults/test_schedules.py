"""Twenty schedules of faults under traffic: no request is lost, no bit of an answer changes, nothing is left behind.

`make faults N=1000` runs more of them.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import pytest
from faults.asking import Question
from faults.cluster import FaultyCluster, wait_for
from faults.decoys import misled
from faults.footprint import Footprint, leaks
from faults.injectors import KINDS, targets
from faults.run import Outcome, run
from faults.traffic import Traffic, verdicts

pytestmark = [
    pytest.mark.processes,
    pytest.mark.skipif(os.geteuid() != 0, reason="makes network namespaces, which root alone may"),
]
SCHEDULES = 20


@pytest.mark.parametrize("kind", KINDS)
def test_a_fault_elsewhere_is_not_taken_for_one_here(
    cluster: FaultyCluster, asked: Sequence[Question], kind: str
) -> None:
    """The controls: each injector hits something else on purpose, and its own check has to say so."""
    target = targets(cluster)[kind][0]
    traffic = Traffic(cluster.door("router-0"), asked[:2])
    try:
        injector = KINDS[kind](cluster, target)
        with misled(injector):
            assert not injector.verify()
    finally:
        requests = traffic.finish()
    assert not verdicts(requests)


@pytest.fixture(scope="module")
def before(cluster: FaultyCluster, asked: Sequence[Question]) -> dict[str, Footprint]:
    """What the processes hold after the same traffic without a fault."""
    traffic = Traffic(cluster.door("router-0"), asked)
    try:
        traffic.wait_for_tokens(2000)
    finally:
        requests = traffic.finish()
    assert not verdicts(requests)
    assert wait_for(lambda: not running(cluster), 20)
    return cluster.footprints()


@pytest.fixture(scope="module")
def outcome(cluster: FaultyCluster, asked: Sequence[Question], before: dict[str, Footprint]) -> Outcome:
    return run(cluster, asked, range(SCHEDULES))


def running(cluster: FaultyCluster) -> float:
    """Sequences at the attention workers, and pages that they use."""
    records = [cluster.store.record("attention", f"attention-{number}") for number in range(2)]
    return sum(one["stats"]["running"] + one["stats"]["kv_pages_used"] if one else 1.0 for one in records)


def test_every_fault_takes_effect(outcome: Outcome) -> None:
    assert outcome.faults.keys() == KINDS.keys()
    assert not outcome.without_effect


def test_no_answer_is_lost_or_changed(outcome: Outcome, asked: Sequence[Question]) -> None:
    assert outcome.requests >= SCHEDULES * len(asked)
    assert outcome.answers > outcome.requests
    assert not outcome.verdicts


def test_nothing_is_left_behind(cluster: FaultyCluster, before: dict[str, Footprint], outcome: Outcome) -> None:
    """No page is in use, no process holds more than it did, and no record but those of the processes is in Redis."""
    assert wait_for(lambda: not running(cluster), 20), "sequences that nobody waits for"
    wait_for(lambda: not leaks(before, cluster.footprints()), 20)  # connections that end late
    assert not leaks(before, cluster.footprints())
    workers = {key.decode().rpartition(":")[2] for key in cluster.store.client.keys("caracal:worker:*")}
    assert workers == set(cluster.names)
