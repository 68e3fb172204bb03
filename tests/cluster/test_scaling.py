"""Workers join, leave and die under running streams: no stream fails, and not one bit of any logits changes."""

from __future__ import annotations

import urllib.request

import pytest
from support.cluster_harness import CALLERS, ClusterUnderTest, Stream, Streams, until

from services.membership.redis import RedisUnavailable

pytestmark = pytest.mark.processes

PAUSE_S = 1.0  # the longest pause that a stream may have while workers join and leave
SOME = 20 * CALLERS  # tokens


def check(streams: Streams, unscaled: list[Stream]) -> float:
    """Asserts that every answer is, bit for bit, the undisturbed one; returns the longest pause within a stream."""
    for caller, undisturbed in zip(streams.finish(), unscaled, strict=True):
        for stream in caller:
            assert stream.finish_reason == "length"
            assert (stream.ids, stream.checksums) == (undisturbed.ids, undisturbed.checksums)
    return max(stream.longest_pause for stream in streams.all)


def test_rows_travel_over_the_configured_link(cluster: ClusterUnderTest, unscaled: list[Stream]) -> None:
    def share(kind: str) -> float:
        stats = cluster.records("expert")[0].stats
        return stats[kind] / stats["calls"] if stats["calls"] else -1.0

    until(lambda: share("over_p2p") >= 0, "the lease never counts a call")
    for link, kind in (("nccl", "over_p2p"), ("native", "over_native")):
        if cluster.local.settings.link == link:
            until(lambda kind=kind: share(kind) > 0.5, "most rows still go over gRPC after the session was opened")  # type: ignore[misc]
        else:
            assert share(kind) == 0
    native, layers = (counted(cluster, f"caracal_{name}_total") for name in ("engine_native_layers", "engine_steps"))
    assert (native > layers) is (cluster.local.settings.link == "native"), "without Python over native sessions alone"


def counted(cluster: ClusterUnderTest, name: str) -> float:
    """A counter of the attention worker."""
    url = f"http://{cluster.records('attention')[0].metrics_address}/metrics"
    with urllib.request.urlopen(url, timeout=5) as page:
        (line,) = (line for line in page.read().decode().splitlines() if line.startswith(f"{name} "))
    return float(line.split()[1])


def test_experts_scale_from_one_to_three_to_two(cluster: ClusterUnderTest, unscaled: list[Stream]) -> None:
    before = cluster.epoch()
    streams = cluster.streams()
    streams.wait_for_tokens(SOME)
    cluster.scale("expert", 3)
    assert sum(cluster.placed().values()) == 2 * 24, "two replicas of each, where there is room"
    assert all(12 <= count <= 18 for count in cluster.placed().values()), "equal shares, but for what the load moves"
    streams.wait_for_tokens(SOME)
    cluster.scale("expert", 2)
    until(lambda: "expert-2" not in cluster.local.children, "expert-2 never left")
    streams.wait_for_tokens(SOME)
    assert check(streams, unscaled) < PAUSE_S
    assert cluster.epoch() > before


def test_attention_scales_from_one_to_two_to_one(cluster: ClusterUnderTest, unscaled: list[Stream]) -> None:
    streams = cluster.streams()
    streams.wait_for_tokens(SOME)
    cluster.scale("attention", 2)
    until(lambda: _running(cluster, "attention-1") > 0, "the second attention worker gets no sequence")
    cluster.scale("attention", 1)
    until(lambda: "attention-1" not in cluster.local.children, "attention-1 never left")
    streams.wait_for_tokens(SOME)
    assert check(streams, unscaled) < PAUSE_S


@pytest.mark.parametrize("killed", ["expert-0", "expert-1"])
def test_an_expert_worker_is_killed(cluster: ClusterUnderTest, unscaled: list[Stream], killed: str) -> None:
    cluster.scale("expert", 2)
    streams = cluster.streams()
    streams.wait_for_tokens(SOME)
    before, others = cluster.epoch(), {"expert-0", "expert-1"} - {killed}
    cluster.kill(killed)
    took = until(lambda: set(cluster.placed()) == others, "no worker took over the experts")
    assert took < 2.5, "noticed only when its lease expired"
    streams.wait_for_tokens(SOME)
    until(lambda: len(cluster.placed()) == 2, "the restarted worker gets no experts")
    streams.wait_for_tokens(SOME)
    check(streams, unscaled)
    assert cluster.epoch() > before


def test_the_only_expert_worker_is_killed(cluster: ClusterUnderTest, unscaled: list[Stream]) -> None:
    streams = cluster.streams()
    streams.wait_for_tokens(SOME)
    cluster.kill("expert-0")
    streams.wait_for_tokens(SOME)
    check(streams, unscaled)


def test_an_attention_worker_is_killed(cluster: ClusterUnderTest, unscaled: list[Stream]) -> None:
    cluster.scale("attention", 2)
    streams = cluster.streams()
    until(lambda: _running(cluster, "attention-1") > 0, "the second attention worker gets no sequence")
    cluster.kill("attention-1")
    streams.wait_for_tokens(SOME)
    check(streams, unscaled)


def test_redis_is_killed_and_comes_back_empty(cluster: ClusterUnderTest, unscaled: list[Stream]) -> None:
    cluster.scale("expert", 2)
    before = cluster.epoch()
    old = cluster.local.children["redis"].pid
    streams = cluster.streams()
    streams.wait_for_tokens(SOME)
    cluster.kill("redis")
    until(lambda: "redis" in cluster.local.children and cluster.local.children["redis"].pid != old, "no new redis")
    until(lambda: _epoch_if_any(cluster) >= before, "no table came back, or one of a lower epoch")
    streams.wait_for_tokens(SOME)
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
