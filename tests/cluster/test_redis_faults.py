"""What Redis cannot tell is no evidence of a death: a Redis that refuses, hangs or has lost everything takes no worker
away that answers, from the leader or from a router.

The faults are those of real servers, all at once, each with its own workers, leader and router's list of workers.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
import redis
from support.leader_harness import LeaderHarness, leader_harness
from support.worker_processes import Store, redis_store

from services.membership.redis import Membership, RedisUnavailable
from services.router.introductions import Introductions
from services.router.requests.attention_workers import AttentionWorkerPool
from services.router.requests.directory import list_attention_workers

pytestmark = pytest.mark.processes

HELD_S = 8.0  # longer than a lease lasts, and than a router waited for it to come back


@dataclass(frozen=True)
class Fault:
    """`refuses`: what a write is refused with meanwhile; empty = it is not answered. `readable`: whether reads are."""

    name: str
    inject: Callable[[Store], None]
    heal: Callable[[Store], None]
    refuses: str = ""
    readable: bool = True


def configured(**values: str) -> Callable[[Store], None]:
    def configure(store: Store) -> None:
        for name, value in values.items():
            store.client.config_set(name.replace("_", "-"), value)

    return configure


def read_only(store: Store) -> None:
    store.client.replicaof("127.0.0.1", "1")


def writable(store: Store) -> None:
    store.client.replicaof("NO", "ONE")


def lost_and_read_only(store: Store) -> None:
    store.client.flushall()
    read_only(store)


def cannot_save(store: Store) -> None:
    configured(dir="/proc", save="3600 1")(store)
    store.client.bgsave()
    deadline = time.monotonic() + 10
    while store.client.info("persistence")["rdb_last_bgsave_status"] != "err":
        assert time.monotonic() < deadline, "the snapshot went through"
        time.sleep(0.02)


def locked(store: Store) -> None:
    store.client.config_set("requirepass", "secret")
    store.client.client_kill_filter(_type="normal", skipme=True)


def unlocked(store: Store) -> None:
    with redis.Redis(unix_socket_path=store.url.removeprefix("unix://"), password="secret") as client:
        client.config_set("requirepass", "")


def send(number: signal.Signals) -> Callable[[Store], None]:
    return lambda store: os.kill(store.pid, number)


FAULTS = (
    Fault("out of memory", configured(maxmemory="1"), configured(maxmemory="0"), "OutOfMemory"),
    Fault("read-only", read_only, writable, "ReadOnly"),
    Fault("lost and read-only", lost_and_read_only, writable, "ReadOnly"),
    Fault("cannot save", cannot_save, configured(stop_writes_on_bgsave_error="no", save=""), "MISCONF"),
    Fault("no replicas", configured(min_replicas_to_write="1"), configured(min_replicas_to_write="0"), "NOREPLICAS"),
    Fault("locked", locked, unlocked, "HELLO|Authentication", readable=False),
    Fault("stopped", send(signal.SIGSTOP), send(signal.SIGCONT), readable=False),
    Fault("slow", lambda store: store.client.client_pause(int(1000 * HELD_S)), lambda _: None, readable=False),
)


@asynccontextmanager
async def router_list(store: Store) -> AsyncIterator[AttentionWorkerPool]:
    membership = Membership(store.url)
    introductions = Introductions(bad=membership.bad)
    pool = AttentionWorkerPool(partial(list_attention_workers, membership, introductions), max_model_len=100)
    task = asyncio.create_task(pool.run())
    try:
        yield pool
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await pool.close()
        await introductions.close()
        await membership.close()


async def refuses_a_write(store: Store, reason: str) -> None:
    membership = Membership(store.url)
    with pytest.raises(RedisUnavailable, match=reason):
        await membership.set_desired("expert", 3)
    await membership.close()


async def survives(harness: LeaderHarness, fault: Fault) -> None:
    leader = harness.lead(replicas=2)
    attention = [await harness.join("attention", number) for number in range(2)]
    for number in range(2):
        await harness.join("expert", number)
    await harness.loaded(8, 8)
    await harness.until(lambda: all(worker.epoch for worker in attention), "attention workers have a table")
    async with router_list(harness.store) as pool:
        await harness.until(lambda: sum(worker.serving for worker in pool.workers) == 2, "the router lists them")
        epoch, calls = leader.epoch, len(harness.calls)
        await asyncio.to_thread(fault.inject, harness.store)
        until = time.monotonic() + HELD_S
        if fault.refuses:
            await refuses_a_write(harness.store, fault.refuses)
        while time.monotonic() < until:
            assert sum(worker.serving for worker in pool.workers) == 2, f"{fault.name}: {pool.workers}"
            assert leader.leading, fault.name
            await asyncio.sleep(0.02)
        assert (leader.epoch, harness.calls[calls:]) == (epoch, []), f"{fault.name}: nothing was placed anew"
        await harness.kill(attention[1])
        if fault.readable:
            await harness.until(lambda: len(pool.workers) == 1, f"{fault.name}: a dead worker stays")
        await asyncio.to_thread(fault.heal, harness.store)
        await harness.until(lambda: harness.membership.reachable, f"{fault.name}: it is not over")
        third = await harness.join("expert", 2)
        await harness.until(lambda: bool(third.loaded), f"{fault.name}: no worker can join")


async def survive_all(folder: Path) -> None:
    async def one(number: int, fault: Fault) -> None:
        (folder / str(number)).mkdir()
        with redis_store(folder / str(number)) as store:
            try:
                async with leader_harness(store) as harness:
                    await survives(harness, fault)
            finally:
                os.kill(store.pid, signal.SIGCONT)

    await asyncio.gather(*(one(number, fault) for number, fault in enumerate(FAULTS)))


def test_no_worker_that_answers_is_taken_for_dead(tmp_path: Path) -> None:
    asyncio.run(survive_all(tmp_path))
