"""Tables and epochs that nobody of the cluster can have made: no single call or record uses up the epochs, and rows go
to no address that is not a worker's."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import torch
from caracal_proto import expert_pb2, expert_pb2_grpc
from caracal_proto.placement_pb2 import Endpoint, LayerPlacement, Table
from caracal_proto.placements import layer_of, pack_layer
from support.attention_service import Worker as AttentionWorker
from support.attention_service import worker
from support.engine_driver import limits
from support.expert_workers import Worker, place, workers
from support.fake_experts import FakeWorker
from support.leader_harness import EXPERTS, LAYERS, LeaderHarness, run_scenario
from support.tiny_checkpoint import make_checkpoint
from support.worker_processes import Store, redis_store

from services.attention_worker.table_check import TableCheck
from services.attention_worker.table_follower import TableFollower
from services.checkpoint.reader import Checkpoint
from services.membership.checks import MAX_EPOCH, MAX_EPOCH_STEP, epoch_violation, is_address
from services.membership.record import WorkerRecord
from services.membership.redis import Membership

pytestmark = pytest.mark.processes

FAR = [2**64 - 1, MAX_EPOCH - 1, MAX_EPOCH_STEP + 6]  # for a worker at epoch 5


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with redis_store(tmp_path_factory.mktemp("redis")) as started:
        yield started


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return Checkpoint.open(make_checkpoint(tmp_path_factory.mktemp("model")))


@pytest.fixture
def expert(checkpoint: Checkpoint) -> Iterator[tuple[Worker, Any]]:
    """An expert worker that has everything at epoch 5, and a stub of a caller."""
    with workers(checkpoint, torch.float32, 1) as (one,), grpc.insecure_channel(one.endpoint.address) as channel:
        one.apply(place(5, checkpoint, [one.endpoint], lambda layer, expert: [0]))
        yield one, expert_pb2_grpc.ExpertStub(channel)


def rejected(stub: Any, table: Table) -> str:
    """Why a Commit is rejected."""
    with pytest.raises(grpc.RpcError) as raised:
        stub.Commit(expert_pb2.CommitRequest(table=table), timeout=5)
    assert raised.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    return str(raised.value.details())


@pytest.mark.parametrize("epoch", FAR)
def test_an_expert_worker_takes_no_epoch_far_ahead(
    expert: tuple[Worker, Any], checkpoint: Checkpoint, epoch: int
) -> None:
    one, stub = expert
    loaded = one.experts.loaded
    assert "too far ahead of 5" in rejected(stub, place(epoch, checkpoint, [one.endpoint], lambda layer, expert: [0]))
    with pytest.raises(grpc.RpcError, match="too far ahead"):
        stub.Prepare(expert_pb2.PrepareRequest(epoch=epoch), timeout=5)
    assert (one.state.epoch, one.experts.loaded) == (5, loaded)
    stub.Commit(expert_pb2.CommitRequest(table=place(6, checkpoint, [one.endpoint], lambda *_: [0])), timeout=5)
    assert one.state.epoch == 6


def test_a_worker_that_was_away_takes_what_redis_says_too(expert: tuple[Worker, Any], checkpoint: Checkpoint) -> None:
    one, stub = expert
    table = place(3 * MAX_EPOCH_STEP, checkpoint, [one.endpoint], lambda layer, expert: [0])
    assert rejected(stub, table)
    one.state.published = lambda: table.epoch
    stub.Commit(expert_pb2.CommitRequest(table=table), timeout=5)
    assert one.state.epoch == table.epoch


def test_an_expert_worker_takes_no_table_of_another_shape(expert: tuple[Worker, Any], checkpoint: Checkpoint) -> None:
    one, stub = expert
    good = place(6, checkpoint, [one.endpoint], lambda layer, expert: [0])
    few, many = good.layers[0], layer_of([[0]] * 1000)
    other = Endpoint(worker_id="w1", boot_id="b", address="unix:/run/evil")
    wrong = [
        (Table(epoch=6, workers=good.workers, layers=[few]), "layers, the model"),
        (Table(epoch=6, workers=good.workers, layers=[few] * 99), "layers, the model"),
        (Table(epoch=6, workers=good.workers, layers=[many, *good.layers[1:]]), "experts, not"),
        (Table(epoch=6, workers=good.workers, layers=[LayerPlacement(replicas=b"\xff"), *good.layers[1:]]), "need"),
        (Table(epoch=6, layers=good.layers), "does not name"),
        (Table(epoch=6, workers=[*good.workers, other], layers=good.layers), "not HOST:PORT"),
        (Table(epoch=6, workers=[*good.workers, *good.workers], layers=good.layers), "twice"),
    ]
    loaded = one.experts.loaded
    for table, words in wrong:
        assert words in rejected(stub, table)
    assert (one.state.epoch, one.experts.loaded) == (5, loaded)


@contextlib.asynccontextmanager
async def attention(store: Store, signed: bool = False) -> AsyncIterator[tuple[AttentionWorker, Membership]]:
    """An attention worker at epoch 5 that knows expert-0."""
    store.client.flushall()
    membership = Membership(store.url)
    async with worker(limits(max_len=64)) as one:
        one.service._check = TableCheck(membership, signed)
        await membership.announce(expert_record(0))
        await one.stub.ApplyTable(table(5, expert_record(0)))
        yield one, membership
    await membership.close()


def expert_record(number: int, **more: Any) -> WorkerRecord:
    fields = {"worker_id": f"expert-{number}", "address": f"127.0.0.1:{1 + number}", "boot_id": f"b{number}"} | more
    return WorkerRecord(role="expert", **fields)


def table(epoch: int, *records: WorkerRecord) -> Table:
    named = [Endpoint(worker_id=one.worker_id, address=one.address, boot_id=one.boot_id) for one in records]
    return Table(epoch=epoch, workers=named, layers=[pack_layer(np.ones(1, np.int64), np.zeros(1, np.int64))])


async def apply_error(one: AttentionWorker, sent: Table) -> str:
    call = one.stub.ApplyTable(sent)
    code = await call.code()
    assert code in (grpc.StatusCode.OK, grpc.StatusCode.FAILED_PRECONDITION)
    return str(await call.details() or "")


@pytest.mark.parametrize("epoch", FAR)
def test_an_attention_worker_takes_no_epoch_far_ahead(store: Store, epoch: int) -> None:
    async def body() -> None:
        async with attention(store) as (one, membership):
            assert "too far ahead" in await apply_error(one, table(epoch, expert_record(0)))
            await membership.write_table(table(epoch, expert_record(0)))
            follower = TableFollower(membership, one.service)
            await follower._poll()
            assert one.service.epoch == 5, "what Redis says alone is no proof either"
            assert not await apply_error(one, table(6, expert_record(0)))
            assert one.service.epoch == 6

    asyncio.run(body())


def test_an_attention_worker_sends_rows_to_no_address_that_is_not_a_workers(store: Store) -> None:
    async def body() -> None:
        async with attention(store) as (one, membership):
            evil = expert_record(7)
            assert "expert-7" in await apply_error(one, table(6, evil))
            await membership.announce(expert_record(1))
            assert "expert-1" in await apply_error(one, table(6, expert_record(1, address="127.0.0.1:666")))
            assert "expert-1" in await apply_error(one, table(6, expert_record(1, boot_id="another")))
            assert "expert-0" in await apply_error(one, table(6, expert_record(0, address="127.0.0.1:666")))
            assert "HOST:PORT" in await apply_error(one, table(6, expert_record(0, address="unix:/run/evil")))
            assert one.service.epoch == 5
            assert not await apply_error(one, table(6, expert_record(0), expert_record(1)))

    asyncio.run(body())


def test_a_worker_that_has_gone_stays_named_as_long_as_the_table_in_redis_names_it(store: Store) -> None:
    async def body() -> None:
        async with attention(store) as (one, membership):
            gone = expert_record(3)
            assert await apply_error(one, table(6, gone))
            await membership.write_table(table(6, gone))
            assert not await apply_error(one, table(6, gone))

    asyncio.run(body())


def test_without_redis_and_with_a_key_whoever_may_call_is_believed(store: Store, tmp_path: Path) -> None:
    async def body() -> None:
        async with attention(store) as (one, _):
            unreachable = Membership(f"unix://{tmp_path}/none")
            one.service._check = TableCheck(unreachable, signed=False)
            assert not await apply_error(one, table(6, expert_record(8)))
            await unreachable.close()
        async with attention(store, signed=True) as (one, _):
            assert not await apply_error(one, table(6, expert_record(9)))

    asyncio.run(body())


def named_ghost(epoch: int) -> bytes:
    ghost = [Endpoint(worker_id="ghost", boot_id="g", address="127.0.0.1:1")]
    layers = [layer_of([[0]] * EXPERTS)] * LAYERS
    return Table(epoch=epoch, numerics_class="c", workers=ghost, layers=layers).SerializeToString()


@pytest.mark.parametrize("epoch", [MAX_EPOCH - 1, 2**48, MAX_EPOCH_STEP + 5])
def test_a_table_in_redis_that_is_far_ahead_is_written_over(store: Store, epoch: int) -> None:
    """Before the first leader, and under one that leads."""

    async def scenario(harness: LeaderHarness) -> None:
        ghost = {"epoch": epoch, "table": named_ghost(epoch)}
        store.client.hset("caracal:placement", mapping=ghost)
        harness.lead()
        await harness.join("attention", 0)
        await harness.join("expert", 0)
        await harness.loaded(8)
        await harness.until(lambda: 0 < harness.workers[1].epoch < 2000, "committed")
        first = harness.workers[1].epoch
        store.client.hset("caracal:placement", mapping=ghost)
        await harness.until(lambda: stored_epoch(store) == first, "the table is not written over")
        await harness.join("expert", 1)
        await harness.loaded(4, 4)
        await harness.until(lambda: {worker.epoch for worker in harness.workers} == {first + 1}, "committed")

    run_scenario(store, scenario)


def stored_epoch(store: Store) -> int:
    return int(store.client.hget("caracal:placement", "epoch"))


def test_a_lease_that_claims_a_far_epoch_lifts_nothing(store: Store) -> None:
    """The worker itself says another one; a leader that follows the lease could publish nothing any more."""

    async def scenario(harness: LeaderHarness) -> None:
        harness.lead()
        await harness.join("attention", 0)
        one = await harness.join("expert", 0)
        await harness.loaded(8)
        honest = one.record
        one.record = lambda: WorkerRecord(**(honest().to_dict() | {"epoch": MAX_EPOCH - 2}))  # type: ignore[method-assign]
        await harness.membership.announce(one.record())
        await harness.join("expert", 1)
        await harness.loaded(4, 4)
        assert max(worker.epoch for worker in harness.workers) < 5000

    run_scenario(store, scenario)


def test_a_new_leader_goes_on_above_workers_whose_epochs_are_high(store: Store) -> None:
    """As after a wiped Redis, in a cluster that has had many leaders."""

    async def scenario(harness: LeaderHarness) -> None:
        old = 7 * MAX_EPOCH_STEP
        for number in range(2):
            worker = FakeWorker("expert", number, harness.calls)
            worker.epoch = old
            await harness.add(worker)
        harness.lead()
        await harness.loaded(4, 4)
        await harness.until(lambda: {worker.epoch for worker in harness.workers} == {old + 1000}, "committed")

    run_scenario(store, scenario)


def test_the_step_is_never_reached_by_what_leaders_do() -> None:
    assert epoch_violation(5 + MAX_EPOCH_STEP, 5) == ""
    assert epoch_violation(6 + MAX_EPOCH_STEP, 5)
    assert epoch_violation(MAX_EPOCH, MAX_EPOCH - 1)


@pytest.mark.parametrize(
    ("text", "fine"),
    [
        ("10.0.0.1:80", True),
        ("[fe80::1%eth0]:80", True),
        ("expert-0.caracal.svc:50052", True),
        ("localhost:65535", True),
        ("localhost:65536", False),
        ("localhost:0", False),
        ("::1:80", False),
        ("dns:///evil:80", False),
        ("ipv4:10.0.0.1:80", False),
        ("a b:80", False),
        ("x:８０", False),
        ("evil:80/path", False),
        ("", False),
    ],
)
def test_addresses(text: str, fine: bool) -> None:
    assert is_address(text) is fine
