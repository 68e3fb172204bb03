"""A cluster with attention workers of two ranks: a rank dies under running streams, and no answer changes by a bit."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest
from support.cluster_harness import CALLERS, ClusterUnderTest, Streams, running_cluster, until
from support.tiny_checkpoint import make_checkpoint

from services.local.settings import LocalSettings
from services.process.settings import InvalidSetting

pytestmark = pytest.mark.processes

TOKENS = 80  # of a stream: two ranks on two cores take long for each


def followers(cluster: ClusterUnderTest, name: str) -> list[psutil.Process]:
    return psutil.Process(cluster.local.children[name].pid).children(recursive=True)


def test_a_rank_dies_under_running_streams(tmp_path: Path) -> None:
    running = running_cluster(tmp_path, attention=2, tp=2)
    cluster = next(running)
    ranks = [followers(cluster, f"attention-{n}") for n in range(2)]
    try:
        assert [len(one) for one in ranks] == [1, 1]
        before = {record.worker_id: record.boot_id for record in cluster.records("attention")}
        streams = Streams(cluster.grpc_target, TOKENS)
        streams.wait_for_tokens(CALLERS * 30)
        ranks[0][0].kill()
        until(
            lambda: [r for r in cluster.records("attention") if r.boot_id not in before.values() and r.epoch],
            "attention-0 was not restarted",
        )
        ranks.append(followers(cluster, "attention-0"))
        until(lambda: len(streams.all) > CALLERS, "no caller had a second answer to compare")
        answers = streams.finish()
    finally:
        running.close()
    assert sum(len(caller) for caller in answers) > CALLERS, "some caller has two answers to compare"
    for caller in answers:
        assert all(len(stream.ids) == TOKENS and stream.finish_reason == "length" for stream in caller)
        assert {(*stream.ids, *stream.checksums) for stream in caller} == {(*caller[0].ids, *caller[0].checksums)}
    _, left = psutil.wait_procs([rank for one in ranks for rank in one], 2)
    assert not left


def test_a_bad_number_of_ranks_is_an_invalid_setting(tmp_path: Path) -> None:
    with pytest.raises(InvalidSetting, match="--tp is 0: must be at least 1"):
        LocalSettings(model=make_checkpoint(tmp_path), port=0, tp=0)
