"""A cluster with few rights in its Redis, which moves to a replica: the documented ones are enough, nothing is lost."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import httpx2
import pytest
import redis
from support.cluster_harness import CALLERS, ClusterUnderTest, Stream, until
from support.sentinel_servers import PASSWORD, Servers, sentinel_servers
from support.tiny_checkpoint import make_checkpoint

from services.local.settings import LocalSettings
from services.membership.overview import Overview
from services.membership.redis import Membership, RedisUnavailable
from services.security.cluster_key import ClusterKey

pytestmark = pytest.mark.processes

SOME = 10 * CALLERS  # tokens


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    with sentinel_servers(tmp_path_factory.mktemp("sentinels")) as running:
        yield running


@pytest.fixture(scope="module")
def cluster(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterUnderTest]:
    """One attention and one expert worker, which know nothing but the Sentinels."""
    model = make_checkpoint(tmp_path_factory.mktemp("acl") / "model", num_layers=3, seed=3)
    made = ClusterUnderTest(LocalSettings(model=model, port=0, link="grpc"))

    async def membership() -> Membership:
        return Membership(servers.url, made.local.cluster, ClusterKey(file=made.local.key_file))

    made.local.redis_url, made.local.membership = servers.url, made.do(membership())
    try:
        made.start()
        yield made
    finally:
        made.stop()


@pytest.fixture(scope="module")
def undisturbed(cluster: ClusterUnderTest) -> list[Stream]:
    return [caller[0] for caller in cluster.streams().finish()]


def same(answers: list[list[Stream]], undisturbed: list[Stream]) -> None:
    """Asserts that each answer came to its end, with the bits of the undisturbed one."""
    for caller, expected in zip(answers, undisturbed, strict=True):
        for stream in caller:
            assert stream.finish_reason == "length"
            assert (stream.ids, stream.checksums) == (expected.ids, expected.checksums)


def test_the_documented_rights_are_enough(
    cluster: ClusterUnderTest, servers: Servers, undisturbed: list[Stream]
) -> None:
    admin, port = servers.admin(servers.data[0]), servers.data[0]
    streams = cluster.streams()
    streams.wait_for_tokens(SOME)
    cluster.scale("expert", 2)
    cluster.kill("expert-1")
    until(lambda: set(cluster.placed()) == {"expert-0"}, "no worker took over the experts")
    for key in ("caracal:workers:expert", "caracal:changes"):
        admin.delete(key)
        admin.set(key, "of another type")  # as nobody of ours writes it
    until(lambda: len(cluster.placed()) == 2, "the restarted worker gets no experts")
    cluster.scale("expert", 1)
    same(streams.finish(), undisturbed)
    stored_responses(cluster.local.urls[0] + "/v1/responses")
    assert cluster.do(Overview.read(cluster.membership)).epoch > 0
    assert servers.denied(port) == []


def stored_responses(url: str) -> None:
    """Stores a response, goes on with it and deletes it, which are scripts in Redis."""
    first = httpx2.post(url, json={"input": "hello", "max_output_tokens": 16}, timeout=30).json()
    body: dict[str, Any] = {"input": "and then?", "max_output_tokens": 16, "previous_response_id": first["id"]}
    assert httpx2.post(url, json=body, timeout=30).json()["previous_response_id"] == first["id"]
    assert httpx2.get(f"{url}/{first['id']}").status_code == 200
    assert httpx2.delete(f"{url}/{first['id']}").json()["deleted"] is True


def test_and_no_more_than_that(servers: Servers) -> None:
    given: Any = redis.Redis(port=servers.data[0], username="caracal", password=PASSWORD)
    for words in (
        ("FLUSHALL",),
        ("KEYS", "*"),
        ("CONFIG", "GET", "dir"),
        ("ACL", "LIST"),
        ("GET", "other:key"),
        ("PUBLISH", "other:channel", ""),
        ("EVAL", "return redis.call('GET', 'other:key')", 0),
    ):
        with pytest.raises(redis.exceptions.ResponseError, match=r"(?i)permission|can't access"):
            given.execute_command(*words)


def test_a_failover_under_streams_loses_none(
    cluster: ClusterUnderTest, servers: Servers, undisturbed: list[Stream]
) -> None:
    replica = servers.data[1]
    streams = cluster.streams()
    streams.wait_for_tokens(SOME)
    servers.master.kill()
    until(lambda: _leads(servers, replica), "the Sentinels have not made the replica the master")
    until(lambda: _is_reached(cluster), "the Sentinels name no master")
    streams.wait_for_tokens_of_each(20)
    cluster.scale("expert", 2)  # a worker joins by what is there
    streams.wait_for_tokens(SOME)
    same(streams.finish(), undisturbed)
    assert servers.denied(replica) == []


def _is_reached(cluster: ClusterUnderTest) -> bool:
    with suppress(RedisUnavailable):
        return cluster.do(cluster.membership.desired())["expert"] == 1
    return False


def _leads(servers: Servers, port: int) -> bool:
    with suppress(redis.RedisError):
        return bool(servers.admin(port).info("replication")["role"] == "master")
    return False
