"""Leases and tables in a real Redis: calls have time limits, and every value is checked when it is read."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st
from support.cluster_harness import until

from services.local.redis_server import start_redis
from services.membership.record import WorkerRecord
from services.membership.redis import Membership, RedisUnavailable
from services.process.addresses import free_port
from services.process.children import Child, end, start

pytestmark = pytest.mark.processes

RECORD = WorkerRecord(worker_id="expert-0", role="expert", address="127.0.0.1:1", boot_id="b", stats={"rows": 1.5})


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, Child]]:
    port = free_port()
    child = start_redis(port, tmp_path)
    yield f"redis://127.0.0.1:{port}/0", child
    child.signal(signal.SIGCONT)
    end([child], 2)


async def wait_for_redis(membership: Membership) -> None:
    for _ in range(200):
        try:
            await membership.desired()
            return
        except RedisUnavailable:
            await asyncio.sleep(0.02)
    raise AssertionError("redis did not answer")


async def wait_reachable(membership: Membership, wanted: bool) -> None:
    async with asyncio.timeout(10):
        while membership.reachable is not wanted:  # noqa: ASYNC110 - polled, as a scrape does
            await asyncio.sleep(0.02)


def test_a_record_comes_back_as_it_was() -> None:
    assert WorkerRecord.from_json(RECORD.to_json()) == RECORD


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), st.lists, max_leaves=5))
def test_any_other_json_is_a_value_error(value: object) -> None:
    for text in (json.dumps(value), json.dumps({**json.loads(RECORD.to_json()), "epoch": value, "role": value})):
        with pytest.raises(ValueError):  # noqa: PT011 - any ValueError is the contract
            WorkerRecord.from_json(text)


@pytest.mark.parametrize("stats", ["NaN", "-Infinity", "1e999", "1" + "0" * 400, "true"])
def test_numbers_that_nobody_could_show_are_rejected(stats: str) -> None:
    text = RECORD.counts_json().replace("1.5", stats)
    with pytest.raises(ValueError, match="stats"):
        RECORD.with_counts(text)


@pytest.mark.parametrize(
    "more",
    [
        {"worker_id": ""},
        {"capacity": -1},
        {"epoch": -1},
        {"host": "\ud800"},
        {"numerics": {"\ud800": "x"}},
        {"stats": {"\ud800": 1}},
    ],
)
def test_values_that_nobody_could_use_are_rejected(more: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"surrogates|negative"):
        WorkerRecord.from_json(json.dumps(json.loads(RECORD.to_json()) | more))


@pytest.mark.parametrize(
    "text",
    [b"\xff", "[" * 100_000, "{}", '{"worker_id": "x", "role": "emperor"}', RECORD.lease_json()],
    ids=["bytes", "deep", "empty", "role", "of another id"],
)
def test_malformed_records_are_skipped_and_the_rest_is_read(server: tuple[str, Child], text: bytes | str) -> None:
    async def scenario() -> None:
        membership = Membership(server[0])
        await wait_for_redis(membership)
        client = redis.Redis.from_url(server[0])
        client.set("caracal:worker:expert:bad", text)
        client.sadd("caracal:workers:expert", "bad")
        await membership.announce(RECORD)
        assert await membership.workers("expert", counts=True) == [RECORD]
        await membership.withdraw(RECORD)
        assert await membership.workers("expert") == []
        await membership.close()

    asyncio.run(scenario())


def test_advertising_survives_a_redis_that_dies_and_comes_back_empty(server: tuple[str, Child], tmp_path: Path) -> None:
    url, child = server

    async def scenario() -> None:
        membership = Membership(url)
        await wait_for_redis(membership)
        assert not membership.reachable, "no lease was renewed yet"
        task = asyncio.create_task(membership.advertise(lambda: RECORD))
        await wait_reachable(membership, True)
        end([child], 2)
        with pytest.raises(RedisUnavailable):
            await membership.workers("expert")
        await wait_reachable(membership, False)
        again = start_redis(int(url.rsplit(":", 1)[1].split("/")[0]), tmp_path)
        try:
            await wait_for_redis(membership)
            deadline = time.monotonic() + 10
            while await membership.workers("expert", counts=True) != [RECORD]:
                assert time.monotonic() < deadline
                await asyncio.sleep(0.05)
            await wait_reachable(membership, True)
        finally:
            end([again], 2)
        task.cancel()
        await membership.close()

    asyncio.run(scenario())


def test_a_call_to_a_hung_redis_times_out(server: tuple[str, Child]) -> None:
    async def scenario() -> None:
        membership = Membership(server[0])
        await wait_for_redis(membership)
        os.kill(server[1].pid, signal.SIGSTOP)
        started = time.monotonic()
        with pytest.raises(RedisUnavailable):
            await membership.read_table()
        assert time.monotonic() - started < 30  # far above the time limit of a call
        await membership.close()

    asyncio.run(scenario())


def test_one_leads_and_another_cannot_resign_for_it(server: tuple[str, Child]) -> None:
    async def scenario() -> None:
        membership = Membership(server[0])
        await wait_for_redis(membership)
        assert (await membership.pulse("a", 5000)).leads
        assert not (await membership.pulse("b", 5000)).leads
        await membership.resign("b")
        assert (await membership.pulse("a", 5000)).leads
        assert not (await membership.pulse()).leads
        await membership.resign("a")
        assert not (await membership.pulse()).leads
        assert (await membership.pulse("b", 300)).leads
        assert await membership.leader() == "b"
        await asyncio.sleep(0.5)
        assert await membership.leader() is None
        await membership.close()

    asyncio.run(scenario())


def test_a_loop_that_is_cancelled_as_a_reply_comes_ends(server: tuple[str, Child]) -> None:
    """Python 3.11's wait_for drops such a cancellation, which kept a stopping router running for ever."""

    async def scenario() -> None:
        membership = Membership(server[0])
        await wait_for_redis(membership)

        async def loop() -> None:
            while True:
                await membership.leader()

        for attempt in range(300):
            task = asyncio.create_task(loop())
            for _ in range(attempt % 40):
                await asyncio.sleep(0)
            task.cancel()
            done, _ = await asyncio.wait([task], timeout=2)
            assert done, "the cancellation was dropped"
        await membership.close()

    asyncio.run(scenario())


def test_a_child_that_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    script = "import signal as s, time; s.signal(s.SIGTERM, s.SIG_IGN); print('ignores', flush=True); time.sleep(99)"
    child = start("ignores", [sys.executable, "-c", script], tmp_path / "log", {})
    until(lambda: "ignores" in (tmp_path / "log").read_text(), "it did not start")
    end([child], 0.4)
    assert child.process.returncode == -signal.SIGKILL


def test_changes_are_seen_by_the_pulse_and_counts_are_not(server: tuple[str, Child]) -> None:
    async def scenario() -> None:
        membership, reader = Membership(server[0]), Membership(server[0])
        await wait_for_redis(membership)
        seen = [(await reader.pulse()).changes]
        for record in (
            RECORD,
            replace(RECORD, stats={"rows": 2.5}, progress=4, epoch=7),
            replace(RECORD, draining=True),
        ):
            await membership.announce(record)
            assert await reader.workers("expert", counts=True) == [record]
            assert await reader.workers("expert") == [replace(record, stats={}, progress=0)]
            seen.append((await reader.pulse()).changes)
        await membership.withdraw(RECORD)
        seen.append((await reader.pulse()).changes)
        assert seen == [0, 1, 1, 2, 3]
        assert redis.Redis.from_url(server[0]).keys("*") == [b"caracal:changes"]
        await membership.close()
        await reader.close()

    asyncio.run(scenario())


def test_digests_come_back_by_layer(server: tuple[str, Child]) -> None:
    async def scenario() -> None:
        membership = Membership(server[0])
        await wait_for_redis(membership)
        await membership.write_digests("c", {0: b"a" * 16, 3: b"b" * 16})
        redis.Redis.from_url(server[0]).hset("caracal:digests:c", mapping={"x": b"1", "9" * 30: b"2"})
        assert await membership.digests("c") == {0: b"a" * 16, 3: b"b" * 16}
        assert await membership.digests("d") == {}
        await membership.close()

    asyncio.run(scenario())
