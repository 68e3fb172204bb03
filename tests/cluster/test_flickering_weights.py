"""A cluster with an expert worker in whose memory bits flip back and forth: it is found, and left out while it runs."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
from support.cluster_harness import ClusterUnderTest, answer_of, running_cluster, until
from support.worker_processes import REPO

from services.membership.overview import Overview

pytestmark = pytest.mark.processes

WRONG = "expert-9"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterUnderTest]:
    yield from running_cluster(
        tmp_path_factory.mktemp("flickering"), expert=2, environment={"CARACAL_SHADOW_SHARE": "1"}
    )


def joined(cluster: ClusterUnderTest) -> subprocess.Popen[bytes]:
    """One more expert worker of this cluster, which does not look at its own weights."""
    local = cluster.local
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("CARACAL_")}
    given = {
        "MODEL": str(local.settings.model),
        "REDIS_URL": local.redis_url,
        "CLUSTER": local.cluster,
        "CLUSTER_KEY_FILE": str(local.key_file),
        "WORKER_ID": WRONG,
        "SCRUB_S": "0",
        "THREADS": "1",
    }
    paths = os.pathsep.join(str(REPO / part) for part in (".", "kernels", "proto", "tests"))
    return subprocess.Popen(
        [sys.executable, "-m", "support.flickering_weights"],
        env=inherited | {"PYTHONPATH": paths} | {f"CARACAL_{name}": value for name, value in given.items()},
        cwd=REPO,
        stderr=subprocess.DEVNULL,
    )


def test_it_is_left_out_and_answers_are_right_again(cluster: ClusterUnderTest) -> None:
    expected = answer_of(cluster)
    worker = joined(cluster)
    try:
        until(lambda: cluster.placed().get(WRONG, 0) > 0, "it gets no experts", 30)

        def warning() -> str:
            answer_of(cluster)
            return cluster.do(Overview.read(cluster.membership)).warning

        until(lambda: f"{WRONG} is quarantined: it gave other bits" in warning(), "it is not found", 60)
        until(lambda: WRONG not in cluster.placed(), "it keeps its experts", 20)
        states = {one.worker_id: one.state for one in cluster.records("expert")}
        assert states == {"expert-0": "serving", "expert-1": "serving", WRONG: "quarantined"}
        assert answer_of(cluster) == expected
    finally:
        worker.kill()
        worker.communicate()
