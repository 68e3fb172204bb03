"""Experts that are loaded answer the golden row again and again; one that does not has its worker left out."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from support.flipping_experts import flip
from support.tiny_checkpoint import make_checkpoint
from support.worker_processes import Store, redis_store

from services.checkpoint.reader import Checkpoint
from services.checkpoint.scrub import memory_checksum
from services.expert_worker.experts import Experts
from services.expert_worker.golden_check import GoldenCheck
from services.membership.record import WorkerRecord
from services.membership.redis import Membership

pytestmark = pytest.mark.processes

DTYPE = torch.bfloat16
LOADED = [(0, 1), (0, 3), (1, 2)]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with redis_store(tmp_path_factory.mktemp("redis")) as store:
        yield store


@pytest.fixture
def experts(tmp_path: Path) -> Experts:
    found = Experts(Checkpoint.open(make_checkpoint(tmp_path, dtype=DTYPE)), DTYPE)
    for key in LOADED:
        found.load(*key)
    return found


def checked(store: Store, experts: Experts, rounds: int) -> tuple[GoldenCheck, str]:
    """The check after so many, or once it has found something; and what others read of the worker."""
    store.client.flushall()
    record = WorkerRecord(worker_id="expert-0", role="expert", address="127.0.0.1:1", boot_id="b")

    async def run() -> tuple[GoldenCheck, str]:
        membership = Membership(store.url)
        check = GoldenCheck(experts, membership.quarantine, "b", 0.001)
        running = asyncio.create_task(check.run())
        async with asyncio.timeout(20):
            while check.checked < rounds and not check.reason:  # noqa: ASYNC110 - another thread's state
                await asyncio.sleep(0.001)
            (marked,) = await membership.quarantine.mark([record])
            while check.reason and not marked.quarantined:
                await asyncio.sleep(0.01)
                (marked,) = await membership.quarantine.mark([record])
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
        await membership.close()
        return check, marked.quarantined

    return asyncio.run(run())


def test_experts_that_compute_as_they_should_are_never_found(store: Store, experts: Experts) -> None:
    check, quarantined = checked(store, experts, 50)
    assert (check.reason, quarantined, experts.repaired) == ("", "", 0)


def test_weights_that_have_changed_are_read_again_and_the_worker_stays(store: Store, experts: Experts) -> None:
    flip(experts.regions[0, 3].tensors[0])
    check, quarantined = checked(store, experts, 20)
    assert (check.reason, quarantined, experts.repaired) == ("", "", 1)
    assert experts.answers_golden_row(0, 3)


def test_a_worker_whose_arithmetic_fails_is_left_out(store: Store, experts: Experts) -> None:
    # Weights that changed before their checksum was taken: to the check, products that are not what they were.
    flip(experts.regions[1, 2].tensors[0])
    region = experts.regions[1, 2]
    experts.regions[1, 2] = region._replace(checksum=memory_checksum(region.tensors))
    check, quarantined = checked(store, experts, 1000)
    assert "expert 2 of layer 1 answers the golden row with other bits" in check.reason
    assert quarantined == check.reason


def test_an_expert_that_was_dropped_is_not_asked(store: Store, experts: Experts) -> None:
    experts.drop(0, 1)
    assert experts.answers_golden_row(0, 1)
    check, _ = checked(store, experts, 10)
    assert not check.reason
