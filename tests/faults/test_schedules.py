"""Twenty schedules of faults under traffic: no request is lost, no bit of an answer changes, nothing is left behind.

`make faults N=1000` runs more of them.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import pytest
from faults.cluster import FaultyCluster, wait_for
from faults.decoys import misled
from faults.injectors import KINDS, targets
from faults.run import Outcome, run
from faults.traffic import Question, Traffic

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
    traffic = Traffic(cluster.target("router-0"), asked[:2])
    try:
        injector = KINDS[kind](cluster, target)
        with misled(injector):
            assert not injector.verify()
    finally:
        answers = traffic.finish()
    assert not [answer.verdict() for answer in answers if answer.verdict()]


@pytest.fixture(scope="module")
def outcome(cluster: FaultyCluster, asked: Sequence[Question]) -> Outcome:
    return run(cluster, asked, range(SCHEDULES))


def test_every_fault_takes_effect(outcome: Outcome) -> None:
    assert outcome.faults.keys() == KINDS.keys()
    assert not outcome.without_effect


def test_no_answer_is_lost_or_changed(outcome: Outcome) -> None:
    assert outcome.requests > SCHEDULES * 8
    assert not outcome.verdicts


def test_nothing_is_left_behind(cluster: FaultyCluster, outcome: Outcome) -> None:
    """No page is in use, no process holds more than it may, and no record but those of the processes is in Redis."""
    client = cluster.store.client

    def running() -> float:
        return sum(cluster.store.record("attention", f"attention-{n}")["stats"]["running"] for n in range(2))  # type: ignore[index]

    assert wait_for(lambda: running() == 0, 20), "sequences that nobody waits for"
    for name, held in cluster.footprint().items():
        assert held["descriptors"] < 300, name
        assert held["threads"] < 120, name
        assert held["memory_mb"] < 1200, name
    workers = {key.decode().rpartition(":")[2] for key in client.keys("caracal:worker:*")}
    assert workers == set(cluster.names)
