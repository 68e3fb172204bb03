"""A real cluster whose Redis refuses writes, for longer than leases last: no request is lost and no bit is changed, not
even when an expert worker dies meanwhile."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
import redis
from support.cluster_harness import ClusterUnderTest, running_cluster, until

pytestmark = pytest.mark.processes

REFUSED_S = 8.0  # longer than a lease lasts, and than a router waited for it to come back
SOME = 100  # tokens


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterUnderTest]:
    yield from running_cluster(tmp_path_factory.mktemp("refused"), attention=2, expert=2)


def test_nothing_is_lost_while_redis_refuses_writes(cluster: ClusterUnderTest) -> None:
    until(lambda: set(cluster.placed().values()) == {24}, f"no two replicas of each: {cluster.placed()}")
    with redis.Redis.from_url(cluster.local.redis_url) as client:
        streams = cluster.streams()
        streams.wait_for_tokens(SOME)
        client.config_set("maxmemory", "1")
        with pytest.raises(redis.exceptions.OutOfMemoryError):
            client.set("anything", "more")
        refused_until = time.monotonic() + REFUSED_S
        until(lambda: not cluster.records("attention"), "leases do not lapse", 10)
        while time.monotonic() < refused_until:
            streams.wait_for_tokens(SOME)
        cluster.kill("expert-1")
        streams.wait_for_tokens(SOME)
        client.config_set("maxmemory", "0")
        until(lambda: set(cluster.placed().values()) == {24}, "the restarted worker gets no experts")
    answers = streams.finish()
    for caller in answers:
        assert {stream.finish_reason for stream in caller} == {"length"}
        assert len({(tuple(stream.ids), tuple(stream.checksums)) for stream in caller}) == 1
