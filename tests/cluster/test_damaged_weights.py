"""Workers on copies of the weights in which bits have flipped: they join, serve nothing, and are a warning by name."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
from support.cluster_harness import ClusterUnderTest, answer_of, running_cluster, until
from support.flipped_bits import flip
from support.worker_processes import spawn

from services.checkpoint.reader import Checkpoint
from services.membership.overview import Overview

pytestmark = pytest.mark.processes

FLIPS = 12
EXPERT = "model.layers.1.mlp.experts.3.down_proj.weight"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterUnderTest]:
    yield from running_cluster(tmp_path_factory.mktemp("damaged"))


@pytest.fixture
def copy(cluster: ClusterUnderTest, tmp_path: Path) -> Path:
    return Path(shutil.copytree(cluster.local.settings.model, tmp_path / "copy"))


def joined(cluster: ClusterUnderTest, role: str, model: Path) -> subprocess.Popen[str]:
    """One more worker of this cluster, with other weights."""
    local = cluster.local
    return spawn(
        role,
        MODEL=str(model),
        REDIS_URL=local.redis_url,
        CLUSTER=local.cluster,
        CLUSTER_KEY_FILE=str(local.key_file),
        WORKER_ID=f"{role}-9",
        PORT="0",
        METRICS_PORT="0",
        KV_PAGES="8",
    )


def overview(cluster: ClusterUnderTest) -> Overview:
    return cluster.do(Overview.read(cluster.membership))


def refused(cluster: ClusterUnderTest, name: str) -> str:
    """The warning, once the worker has said that it is refused."""
    until(lambda: f"{name} is refused" in overview(cluster).warning, f"no warning about {name}")
    found = overview(cluster)
    (record,) = (one for one in found.workers if one.worker_id == name)
    assert (record.state, record.epoch, record.loaded) == ("refused", 0, 0)
    return found.warning


def test_an_attention_worker_with_flipped_bits_serves_nothing_and_names_them(
    cluster: ClusterUnderTest, copy: Path
) -> None:
    expected = answer_of(cluster)
    random = Random(1)
    names = random.sample(Checkpoint.open(copy).attention_names(), FLIPS)
    files = {flip(copy, name, random.randrange(1 << 20)) for name in names}
    worker = joined(cluster, "attention", copy)
    try:
        warning = refused(cluster, "attention-9")
        assert sum(name in warning for name in names) == 2
        assert any(file in warning for file in files)
        assert "and 10 more tensors" in warning
        assert answer_of(cluster) == expected
    finally:
        worker.kill()
        worker.communicate()


def test_an_expert_worker_with_a_flipped_bit_gets_no_experts_and_names_it(
    cluster: ClusterUnderTest, copy: Path
) -> None:
    file = flip(copy, EXPERT, 100)
    worker = joined(cluster, "expert", copy)
    try:
        assert f"expert-9 is refused: {file}: {EXPERT}: CRC-32 " in refused(cluster, "expert-9")
    finally:
        worker.kill()
        worker.communicate()
