"""Whatever lies in Redis is read without an error, whoever has written it; with a key only what the cluster has signed.

Each input here stopped routers or commands once, or is a sibling of one that did.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import numpy as np
import orjson
import pytest
import structlog
from caracal_proto.placement_pb2 import Endpoint, Table
from caracal_proto.placements import pack_layer
from prometheus_client import CollectorRegistry
from support.worker_processes import Store, redis_store

from services.membership.overview import Overview
from services.membership.record import WorkerRecord
from services.membership.redis import Membership
from services.membership.shortage import CapacityShortage
from services.router.console.state_view import state_of
from services.router.gateway.responses_api.records import Record
from services.router.gateway.responses_api.store import ResponseStore
from services.security.cluster_key import NO_KEY, ClusterKey

pytestmark = pytest.mark.processes

KEY = ClusterKey("the key of this cluster")
KEYS = [NO_KEY, KEY]
GOOD = WorkerRecord(
    worker_id="expert-0", role="expert", address="127.0.0.1:1", boot_id="b", epoch=3, loaded=4, stats={"rows": 1.5}
)
LONG = "9" * 5000
Scenario = Callable[[Membership], Awaitable[None]]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with redis_store(tmp_path_factory.mktemp("redis")) as started:
        yield started


@pytest.fixture(autouse=True)
def empty(store: Store) -> None:
    store.client.flushall()


def run(store: Store, key: ClusterKey, scenario: Scenario) -> None:
    async def body() -> None:
        membership = Membership(store.url, "caracal", key)
        try:
            await scenario(membership)
        finally:
            await membership.close()

    asyncio.run(body())


def changed(**more: Any) -> str:
    return json.dumps(json.loads(GOOD.to_json()) | {"worker_id": "bad"} | more)


RECORDS = {
    "bytes": b"\xff",
    "half a surrogate": changed(address="\ud800"),
    "negative": changed(capacity=-5),
    "long digits": changed().replace('"capacity": 0', f'"capacity": {LONG}'),
    "large": changed(capacity=2**40),
    "epoch": changed(epoch=2**62),
    "NaN": changed(stats={"x": math.nan}),
    "infinite": changed(stats={"x": math.inf}),
    "layers": changed(layers={"exposed_us": [math.nan]}),
    "no number": changed(stats={"x": "1"}),
    "text for a count": changed(loaded="4"),
    "float for a count": changed(loaded=4.5),
    "true for a count": changed(loaded=True),
    "many stats": changed(stats={str(number): 1 for number in range(1000)}),
    "unix socket": changed(address="unix:/tmp/x"),
    "resolver": changed(address="xds:///evil:1"),
    "no port": changed(address="10.0.0.1"),
    "path": changed(metrics_address="10.0.0.1:80/admin"),
    "control characters": changed(host="\x1b[2J"),
    "long text": changed(host="h" * 10_000),
    "list": "[]",
    "deep": "[" * 100_000,
    "huge": changed(host="h") + " " * 300_000,
    "other role": changed(role="attention"),
    "other name": changed(worker_id="expert-0"),
    "utf-16": changed().encode("utf-16"),
    "progress": changed(progress=10**30),
}


@pytest.mark.parametrize("record", RECORDS.values(), ids=RECORDS.keys())
@pytest.mark.parametrize("key", KEYS, ids=["no key", "key"])
def test_a_bad_lease_is_ignored_and_logged_once(store: Store, key: ClusterKey, record: str | bytes) -> None:
    async def scenario(membership: Membership) -> None:
        client = membership._client
        await membership.announce(GOOD)
        data = record if isinstance(record, bytes) else record.encode(errors="surrogatepass")
        store.client.set("caracal:worker:expert:bad", client.signed("caracal:worker:expert:bad", data))
        store.client.sadd("caracal:workers:expert", "bad")
        registry = CollectorRegistry()
        membership.bad.show(registry)
        with structlog.testing.capture_logs() as logs:
            for _ in range(5):
                overview = await Overview.read(membership)
                assert list(overview.workers) == [GOOD]
        assert len(logs) == 1
        assert registry.get_sample_value("caracal_redis_bad_records_total", {"kind": "worker"}) == 1
        orjson.dumps(overview.to_dict())
        orjson.dumps(state_of(overview))

    run(store, key, scenario)


def test_unknown_fields_are_of_a_newer_version_and_change_nothing(store: Store) -> None:
    async def scenario(membership: Membership) -> None:
        store.client.set("caracal:worker:expert:bad", changed(zone="a", more={"x": [1]}))
        store.client.sadd("caracal:workers:expert", "bad")
        assert [one.worker_id for one in await membership.workers("expert")] == ["bad"]

    run(store, NO_KEY, scenario)


@pytest.mark.parametrize(
    "counts", ["{", '{"stats": {"x": NaN}}', '{"progress": -1}', f'{{"progress": {LONG}}}', b"\xff"]
)
def test_bad_counts_hide_their_worker_and_no_other(store: Store, counts: str | bytes) -> None:
    async def scenario(membership: Membership) -> None:
        await membership.announce(GOOD)
        store.client.set("caracal:worker:expert:bad", changed())
        store.client.set("caracal:counts:expert:bad", counts)
        store.client.sadd("caracal:workers:expert", "bad")
        assert await membership.workers("expert", counts=True) == [GOOD]

    run(store, NO_KEY, scenario)


OTHER_KEYS: dict[str, Callable[[Any], Any]] = {
    "names": lambda redis: redis.sadd("caracal:workers:expert", b"\xff", b"\xed\xa0\x80", "x" * 5000, "", "\x1b[2J"),
    "leader": lambda redis: redis.set("caracal:leader", b"\xff", px=1000),
    "leader of another type": lambda redis: redis.rpush("caracal:leader", "x"),
    "leader for ever": lambda redis: redis.set("caracal:leader", "router-9/x"),
    "desired names": lambda redis: redis.hset("caracal:desired", mapping={b"\xff": "1", "expert": "2"}),
    "desired digits": lambda redis: redis.hset("caracal:desired", "expert", LONG),
    "desired negative": lambda redis: redis.hset("caracal:desired", "expert", "-1"),
    "desired of another type": lambda redis: redis.set("caracal:desired", "expert"),
    "shortage bytes": lambda redis: redis.set("caracal:shortage", b"\xff"),
    "shortage text": lambda redis: redis.set("caracal:shortage", '{"reason": "\\ud800"}'),
    "shortage workers": lambda redis: redis.set("caracal:shortage", '{"reason": "r", "workers": {"\\ud800": 1}}'),
    "shortage NaN": lambda redis: redis.set("caracal:shortage", '{"reason": "r", "lost": NaN}'),
    "shortage digits": lambda redis: redis.set("caracal:shortage", f'{{"reason": "r", "lost": {LONG}}}'),
    "epoch": lambda redis: redis.hset("caracal:placement", "epoch", LONG),
    "epoch of another type": lambda redis: redis.set("caracal:placement", "1"),
    "table": lambda redis: redis.hset("caracal:placement", mapping={"epoch": "9", "table": b"\xff"}),
    "changes": lambda redis: redis.set("caracal:changes", "many"),
    "index of another type": lambda redis: redis.set("caracal:workers:expert", "x"),
    "lease of another type": lambda redis: redis.rpush("caracal:worker:expert:expert-0", "x"),
    "digests": lambda redis: redis.hset("caracal:digests:c", mapping={b"\xff": b"x", "-1": b"y", LONG[:30]: b"z"}),
    "digests of another type": lambda redis: redis.set("caracal:digests:c", "x"),
}


@pytest.mark.parametrize("spoil", OTHER_KEYS.values(), ids=OTHER_KEYS.keys())
@pytest.mark.parametrize("key", KEYS, ids=["no key", "key"])
def test_everything_is_read_and_written_in_spite_of_a_bad_key(
    store: Store, key: ClusterKey, spoil: Callable[[Any], Any]
) -> None:
    async def scenario(membership: Membership) -> None:
        spoil(store.client)
        overview = await Overview.read(membership)
        orjson.dumps(overview.to_dict())
        assert not overview.workers
        assert set(overview.desired) <= {"expert"}
        await membership.read_table()
        await membership.digests("c")
        assert (await membership.pulse("router-0/b", 1000)).leads
        await membership.announce(GOOD)
        await membership.set_desired("expert", 3)
        await membership.write_shortage(CapacityShortage("too few"))
        await membership.write_digests("c", {0: b"d" * 16})
        await membership.write_table(table())
        overview = await Overview.read(membership)
        assert (overview.leader, overview.epoch, overview.desired["expert"]) == ("router-0", 7, 3)
        assert list(overview.workers) == [GOOD]
        assert overview.warning == "too few"
        assert (await membership.digests("c"))[0] == b"d" * 16
        assert await membership.read_table() == table()
        await membership.withdraw(GOOD)

    run(store, key, scenario)


@pytest.mark.parametrize("changes", [b"\xff", "", "-5", "9" * 19, "1.5"])
def test_a_bad_key_is_replaced_and_no_other(store: Store, changes: str | bytes) -> None:
    """A worker that leaves once took the index of its role with it, and so the others for a moment."""

    async def scenario(membership: Membership) -> None:
        leaving = WorkerRecord(worker_id="expert-1", role="expert", address="127.0.0.1:2", boot_id="c")
        await membership.announce(GOOD)
        await membership.announce(leaving)
        store.client.set("caracal:changes", changes)
        await membership.withdraw(leaving)
        assert await membership.workers("expert", counts=True) == [GOOD]

    run(store, NO_KEY, scenario)


def table(**more: Any) -> Table:
    workers = [Endpoint(worker_id="expert-0", address="127.0.0.1:1", boot_id="b")]
    layers = [pack_layer(np.ones(2, np.int64), np.zeros(2, np.int64))]
    fields: dict[str, Any] = {"epoch": 7, "numerics_class": "c", "workers": workers, "layers": layers}
    return Table(**(fields | more))


@pytest.mark.parametrize(
    "worker",
    [
        {"address": "unix:/run/x"},
        {"address": ""},
        {"worker_id": ""},
        {"worker_id": "\x1b[2J"},
        {"boot_id": ""},
        {"boot_id": "b" * 2000},
    ],
)
def test_a_table_that_names_no_workers_is_none(store: Store, worker: dict[str, str]) -> None:
    async def scenario(membership: Membership) -> None:
        fields = {"worker_id": "expert-0", "address": "127.0.0.1:1", "boot_id": "b"} | worker
        await membership.write_table(table(workers=[Endpoint(**fields)]))
        assert await membership.read_table() is None
        assert membership.bad.count == 1

    run(store, NO_KEY, scenario)


def test_with_a_key_only_signed_records_count(store: Store) -> None:
    """What an outsider writes, what another cluster signs, and what is copied to another name."""

    async def scenario(membership: Membership) -> None:
        async with contextlib.AsyncExitStack() as stack:
            for number, key in enumerate([NO_KEY, ClusterKey("the key of another one")]):
                outsider = Membership(store.url, "caracal", key)
                stack.push_async_callback(outsider.close)
                await outsider.announce(GOOD)
                await outsider.write_table(table(epoch=2**61))
                await outsider.set_desired("expert", 60)
                await outsider.write_shortage(CapacityShortage("nothing works"))
                await outsider.write_digests("c", {0: b"d" * 16})
                assert (await outsider.pulse("router-9/x", 5000)).leads
                overview = await Overview.read(membership)
                assert overview == Overview(), number
                assert await membership.read_table() is None
                assert await membership.digests("c") == {}
            assert (await membership.pulse("router-0/b", 5000)).leads, "an outsider cannot keep it from leading"
        await membership.announce(GOOD)
        await membership.set_desired("expert", 2)
        redis = store.client
        redis.set("caracal:worker:expert:expert-1", redis.get("caracal:worker:expert:expert-0"))
        redis.sadd("caracal:workers:expert", "expert-1")
        redis.hset("caracal:desired", "attention", redis.hget("caracal:desired", "expert"))
        assert await membership.workers("expert", counts=True) == [GOOD]
        assert await membership.desired() == {"expert": 2}

    run(store, KEY, scenario)


def test_a_process_without_the_key_reads_nothing_that_is_signed(store: Store) -> None:
    async def scenario(membership: Membership) -> None:
        signing = Membership(store.url, "caracal", KEY)
        await signing.announce(GOOD)
        await signing.write_table(table())
        await signing.close()
        assert await Overview.read(membership) == Overview()
        assert "no cluster key" in membership.bad.last

    run(store, NO_KEY, scenario)


def test_bad_records_without_end_are_counted_and_not_all_logged(store: Store) -> None:
    async def scenario(membership: Membership) -> None:
        names = [f"bad-{number}" for number in range(2000)]
        store.client.mset({f"caracal:worker:expert:{name}": b"\xff" for name in names})
        store.client.sadd("caracal:workers:expert", *names)
        await membership.announce(GOOD)
        with structlog.testing.capture_logs() as logs:
            for _ in range(2):
                assert await membership.workers("expert", counts=True) == [GOOD]
        assert 900 < len(logs) <= 1001

    run(store, NO_KEY, scenario)


def test_a_worker_that_was_seen_is_read_in_an_index_without_end(store: Store) -> None:
    async def scenario(membership: Membership) -> None:
        await membership.announce(GOOD)
        assert await membership.workers("expert", counts=True) == [GOOD]
        pipe = store.client.pipeline()
        for start in range(0, 50_000, 5000):
            pipe.sadd("caracal:workers:expert", *(f"ghost-{start + number}" for number in range(5000)))
        pipe.execute()
        for _ in range(5):
            assert await membership.workers("expert", counts=True) == [GOOD]

    run(store, NO_KEY, scenario)


def test_a_stored_response_that_nobody_of_the_cluster_has_written_is_none(store: Store) -> None:
    async def scenario(_: Membership) -> None:
        responses = ResponseStore(store.url, "caracal", ttl_s=60, memory_mb=1, key=KEY)
        first, second = "resp_" + "0" * 24, "resp_" + "1" * 24
        await responses.write(Record({"id": first, "output": []}, [], []), "x")
        assert await responses.read(first, "x") is not None
        store.client.set(f"caracal:response:{second}", store.client.get(f"caracal:response:{first}"))
        assert await responses.read(second, "x") is None
        store.client.set(f"caracal:response:{first}", Record({"id": first, "output": []}, [], []).to_bytes())
        assert await responses.read(first, "x") is None
        await responses.close()

    run(store, KEY, scenario)
