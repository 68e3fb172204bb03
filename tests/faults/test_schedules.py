"""Twenty schedules of faults under traffic: no request is lost, no bit of an answer changes, nothing is left behind.

`make faults N=1000` runs more of them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from faults.asking import Question
from faults.cluster import FaultyCluster, wait_for
from faults.decoys import is_taken_in
from faults.footprint import REST_S, Footprint, footprints, left_behind, running
from faults.kinds import KINDS
from faults.outcome import Outcome
from faults.run import Mix, calm_traffic, run
from faults.variants import LONE, NATIVE, Variant

pytestmark = [
    pytest.mark.processes,
    pytest.mark.skipif(os.geteuid() != 0, reason="makes network namespaces, which root alone may"),
]
# Seeds: each kind of fault is among them. The smoke tests have a cluster with gRPC links and a key.
SCHEDULES = {NATIVE: range(16), LONE: range(16, 20)}


@pytest.fixture(scope="module", params=SCHEDULES, ids=lambda variant: variant.name)
def cluster(
    request: pytest.FixtureRequest, model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[FaultyCluster]:
    variant: Variant = request.param
    with FaultyCluster(model, tmp_path_factory.mktemp("logs"), variant) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def before(cluster: FaultyCluster, asked: Sequence[Question]) -> dict[str, Footprint]:
    """What the processes hold after the same traffic without a fault."""
    calm = Outcome()
    calm_traffic(cluster, asked, calm)
    assert not calm.verdicts
    assert calm.calm
    assert wait_for(lambda: not running(cluster), REST_S)
    return footprints(cluster)


@pytest.mark.parametrize("cluster", [NATIVE], indirect=True, scope="module")
def test_faults_elsewhere_are_not_taken_for_those_here(
    cluster: FaultyCluster, asked: Sequence[Question], before: dict[str, Footprint]
) -> None:
    """The controls: each injector hits something else on purpose, and its own check has to say so."""
    assert not [why for kind in KINDS if (why := is_taken_in(cluster, asked[:2], kind))]


def test_no_answer_is_lost_or_changed_and_nothing_is_left_behind(
    cluster: FaultyCluster, asked: Sequence[Question], before: dict[str, Footprint], whole: Outcome
) -> None:
    """Nor does a fault have no effect. No page is in use in the end, no process holds more than it did, and no record
    but those of the processes is in Redis."""
    seeds = SCHEDULES[cluster.variant]
    outcome = run(cluster, asked, seeds, mix=Mix(also=cluster.variant.also))
    assert not outcome.failures
    assert outcome.requests >= len(seeds) * len(asked)
    assert outcome.answers > outcome.requests
    assert not left_behind(cluster, before)
    whole.add(outcome)


@pytest.fixture(scope="module")
def whole() -> Outcome:
    """Of all clusters together."""
    return Outcome()


def test_every_kind_of_fault_was_there_and_some_overlapped(whole: Outcome) -> None:
    assert whole.faults.keys() == KINDS.keys()
    assert whole.overlapping
    assert whole.routers.keys() == {"leads", "does not lead"}
