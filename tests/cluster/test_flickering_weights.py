"""A cluster with an expert worker in whose memory bits flip back and forth: it is found, and left out while it runs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.broken_worker import broken_worker
from support.cluster_harness import ClusterUnderTest, answer_of, running_cluster, until

from services.membership.overview import Overview

pytestmark = pytest.mark.processes

WRONG = "expert-9"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterUnderTest]:
    yield from running_cluster(
        tmp_path_factory.mktemp("flickering"), expert=2, environment={"CARACAL_SHADOW_SHARE": "1"}
    )


def test_it_is_left_out_and_answers_are_right_again(cluster: ClusterUnderTest) -> None:
    expected = answer_of(cluster)
    with broken_worker(cluster, "flickering_weights", WRONG, {}):
        until(lambda: cluster.placed().get(WRONG, 0) > 0, "it gets no experts", 30)

        def warning() -> str:
            answer_of(cluster)
            return cluster.do(Overview.read(cluster.membership)).warning

        until(lambda: f"{WRONG} is quarantined: it gave other bits" in warning(), "it is not found", 60)
        until(lambda: WRONG not in cluster.placed(), "it keeps its experts", 20)
        states = {one.worker_id: one.state for one in cluster.records("expert")}
        assert states == {"expert-0": "serving", "expert-1": "serving", WRONG: "quarantined"}
        assert answer_of(cluster) == expected
