"""Workers come, go and die under running streams: no stream fails, and not one bit of any logits changes."""

from __future__ import annotations

import pytest
from support.cluster_harness import CALLERS, ClusterUnderTest, Stream, Streams, until

from services.membership.redis import RedisUnavailable

PAUSE_S = 1.0  # the promise to streams while workers come and go
SOME = 20 * CALLERS  # tokens


def check(streams: Streams, unscaled: list[Stream]) -> float:
    """Every answer of every caller is, bit for bit, what it is in peace; returns the longest pause within a stream."""
    for caller, undisturbed in zip(streams.finish(), unscaled, strict=True):
        for stream in caller:
            assert stream.finish_reason == "length"
            assert (stream.ids, stream.checksums) == (undisturbed.ids, undisturbed.checksums)
    return max(stream.longest_pause for stream in streams.all)


def test_rows_go_over_the_link_that_was_asked_for(cluster: ClusterUnderTest, unscaled: list[Stream]) -> None:
    def share() -> float:
        stats = cluster.records("expert")[0].stats
        return stats["over_p2p"] / stats["calls"] if stats["calls"] else -1.0

    until(lambda: share() >= 0, "the lease never tells of the calls")
    if cluster.local.settings.link == "nccl":
        until(lambda: share() > 0.5, "rows still go over gRPC, not only those before the pair stands")
    else:
        assert share() == 0


def test_experts_scale_from_one_to_three_to_two(cluster: ClusterUnderTest, unscaled: list[Stream]) -> None:
    before = cluster.epoch()
    streams = cluster.streams()
    streams.go_on(SOME)
    cluster.scale("expert", 3)
    assert sorted(cluster.placed().values()) == [8, 8, 8]
    streams.go_on(SOME)
    cluster.scale("expert", 2)
    until(lambda: "expert-2" not in cluster.local.children, "expert-2 never left")
    streams.go_on(SOME)
    assert check(streams, unscaled) < PAUSE_S
    assert cluster.epoch() > before


def test_attention_scales_from_one_to_two_to_one(cluster: ClusterUnderTest, unscaled: list[Stream]) -> None:
    streams = cluster.streams()
    streams.go_on(SOME)
    cluster.scale("attention", 2)
    until(lambda: _running(cluster, "attention-1") > 0, "the second attention worker gets no sequence")
    cluster.scale("attention", 1)
    until(lambda: "attention-1" not in cluster.local.children, "attention-1 never left")
    streams.go_on(SOME)
    assert check(streams, unscaled) < PAUSE_S


@pytest.mark.parametrize("victim", ["expert-0", "expert-1"])
def test_an_expert_worker_is_killed(cluster: ClusterUnderTest, unscaled: list[Stream], victim: str) -> None:
    cluster.scale("expert", 2)
    streams = cluster.streams()
    streams.go_on(SOME)
    before, others = cluster.epoch(), {"expert-0", "expert-1"} - {victim}
    cluster.kill(victim)
    took = until(lambda: set(cluster.placed()) == others, "nobody took the experts over")
    assert took < 2.5, "noticed by the lease only"
    streams.go_on(SOME)
    until(lambda: len(cluster.placed()) == 2, "the worker that was started again gets nothing")
    streams.go_on(SOME)
    check(streams, unscaled)
    assert cluster.epoch() > before


def test_the_only_expert_worker_is_killed(cluster: ClusterUnderTest, unscaled: list[Stream]) -> None:
    streams = cluster.streams()
    streams.go_on(SOME)
    cluster.kill("expert-0")
    streams.go_on(SOME)
    check(streams, unscaled)


def test_an_attention_worker_is_killed(cluster: ClusterUnderTest, unscaled: list[Stream]) -> None:
    cluster.scale("attention", 2)
    streams = cluster.streams()
    until(lambda: _running(cluster, "attention-1") > 0, "the second attention worker gets no sequence")
    cluster.kill("attention-1")
    streams.go_on(SOME)
    check(streams, unscaled)


def test_redis_is_killed_and_comes_back_empty(cluster: ClusterUnderTest, unscaled: list[Stream]) -> None:
    cluster.scale("expert", 2)
    before = cluster.epoch()
    old = cluster.local.children["redis"].pid
    streams = cluster.streams()
    streams.go_on(SOME)
    cluster.kill("redis")
    until(lambda: "redis" in cluster.local.children and cluster.local.children["redis"].pid != old, "no new redis")
    until(lambda: _epoch_if_any(cluster) >= before, "the table never came back, or under a lower epoch")
    streams.go_on(SOME)
    cluster.scale("expert", 3)
    assert cluster.epoch() > before
    assert check(streams, unscaled) < PAUSE_S


def _running(cluster: ClusterUnderTest, worker_id: str) -> float:
    return sum(r.stats["running"] for r in cluster.records("attention") if r.worker_id == worker_id)


def _epoch_if_any(cluster: ClusterUnderTest) -> int:
    try:
        return cluster.epoch()
    except RedisUnavailable:
        return 0
