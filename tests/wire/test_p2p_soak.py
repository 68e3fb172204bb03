"""P2P groups come and go by the hundred while others run: no hang, no wrong bit, deaths are seen, no other notices."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from caracal_proto import placement_pb2
from support.expert_fleet import (
    MAX_TOKENS,
    connecting,
    exchange,
    gates,
    load_everything,
    place,
    random_batch,
    run,
)
from support.p2p_worker_pool import Nursery, Peer
from support.reference_dispatcher import PlainExchange
from support.tiny_checkpoint import make_checkpoint
from torch import Tensor

from services.checkpoint.reader import Checkpoint
from services.expert_worker.experts import Experts
from services.router.dispatch import WorkerUnavailable
from services.router.dispatch.links import ExpertRequest
from services.router.dispatch.nccl_link import NcclLink, P2PStats

DTYPE = torch.bfloat16
PAIRS, KILLS = 5, 100  # pairs at once; each kill is followed by a join
LAYER_KILLS = 25
NOTICE_S = 1.0  # the promise: so soon a dead peer is known
HANG_S = 15.0


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("soak"), dtype=DTYPE)


@pytest.fixture(scope="module")
def checkpoint(path: Path) -> Checkpoint:
    return Checkpoint.open(path)


@pytest.fixture(scope="module")
def nursery(path: Path) -> Iterator[Nursery]:
    made = Nursery(path, DTYPE)
    yield made
    made.close()


class Pulse:
    """Measures how long this process itself was kept from running: a busy machine is no fault of a pair's."""

    def __init__(self) -> None:
        self.longest_s = 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)
        self._thread.start()

    def _beat(self) -> None:
        last = time.monotonic()
        while not self._over.wait(0.005):
            now = time.monotonic()
            self.longest_s, last = max(self.longest_s, now - last), now

    def stop(self) -> None:
        self._over.set()
        self._thread.join()


def calls(checkpoint: Checkpoint) -> list[tuple[ExpertRequest, Tensor]]:
    """Calls of many sizes, each with its right answer."""
    experts = load_everything(Experts(checkpoint, DTYPE))
    dice = torch.Generator().manual_seed(0)
    made = []
    for number in range(16):
        rows = int(torch.randint(1, MAX_TOKENS, (), generator=dice))
        x_RD = torch.randn(rows, experts.hidden, generator=dice).to(DTYPE)
        expert_A = torch.arange(experts.num_ffn, dtype=torch.int32).repeat_interleave(rows)
        row_A = torch.arange(rows, dtype=torch.int32).repeat(experts.num_ffn)
        kept = torch.rand(len(row_A), generator=dice) < checkpoint.config.moe_topk / experts.num_ffn
        kept[0] = True
        request = ExpertRequest(number, number % 2, 1, HANG_S, x_RD, row_A[kept], expert_A[kept])
        made.append((request, experts.compute(number % 2, x_RD, row_A[kept], expert_A[kept])))
    return made


@dataclass
class Slot:
    """One pair at a time, called without a pause for as long as its worker lives."""

    link: NcclLink
    peer: Peer
    answered: int = 0
    slowest_s: float = 0.0
    killed_s: float = 0.0
    noticed: threading.Event = field(default_factory=threading.Event)
    noticed_s: float = 0.0
    reborn: threading.Event = field(default_factory=threading.Event)

    def kill(self) -> None:
        self.killed_s = time.monotonic()
        self.peer.kill()

    def replace(self, link: NcclLink, peer: Peer) -> None:
        self.link.close()
        self.link, self.peer, self.killed_s = link, peer, 0.0
        self.noticed.clear()
        self.reborn.set()


def drive(slot: Slot, work: list[tuple[ExpertRequest, Tensor]], over: threading.Event, seed: int) -> None:
    """Raises when an answer is wrong, when a call hangs, or when it fails though nobody was killed."""
    dice = random.Random(seed)
    while not over.is_set():
        request, right_PD = dice.choice(work)
        began_s = time.monotonic()
        try:
            answer = slot.link.dispatch(request).result(HANG_S)
        except WorkerUnavailable:
            assert slot.killed_s, "a pair was lost whose worker nobody killed"
            slot.noticed_s = time.monotonic() - slot.killed_s
            slot.reborn.clear()
            slot.noticed.set()
            slot.reborn.wait()
        else:
            assert torch.equal(answer.y_AD, right_PD)
            slot.answered += 1
            slot.slowest_s = max(slot.slowest_s, time.monotonic() - began_s)


def test_pairs_die_and_join_and_the_others_never_notice(checkpoint: Checkpoint, nursery: Nursery) -> None:
    work, dice, stats = calls(checkpoint), random.Random(1), P2PStats()
    connect = connecting("nccl", checkpoint, DTYPE, stats)

    def born() -> tuple[NcclLink, Peer]:
        peer = nursery.worker()
        link = connect(peer.endpoint)
        assert isinstance(link, NcclLink)
        return link, peer

    slots = [Slot(*born()) for _ in range(PAIRS)]
    over, pulse = threading.Event(), Pulse()
    threads, notices = threading.active_count(), []
    files = len(os.listdir("/proc/self/fd"))
    with ThreadPoolExecutor(PAIRS) as pool:
        drivers = [pool.submit(drive, slot, work, over, seed) for seed, slot in enumerate(slots)]
        try:
            while len(notices) < KILLS:
                victims = dice.sample(slots, dice.choice((1, 1, 2)))  # three pairs at least go on
                for slot in victims:
                    until(lambda slot=slot: slot.link.p2p_connected and slot.answered, drivers)
                    slot.kill()
                for slot in victims:
                    until(slot.noticed.is_set, drivers)
                    notices.append(slot.noticed_s)
                    slot.replace(*born())
                time.sleep(dice.random() * 0.02)
        finally:
            over.set()
            for slot in slots:
                slot.reborn.set()
        for driver in drivers:
            driver.result(HANG_S)
    pulse.stop()
    for slot in slots:
        slot.link.close()
    allowed_s = NOTICE_S + pulse.longest_s
    assert max(notices) <= allowed_s
    assert sorted(notices)[len(notices) // 2] <= NOTICE_S
    assert max(slot.slowest_s for slot in slots) <= allowed_s, "a call waited for somebody else's pair"
    assert stats.met >= len(notices), "every one that was killed had a pair"
    assert stats.calls > sum(slot.answered for slot in slots) / 2
    until(lambda: threading.active_count() <= threads + PAIRS, [], "threads are left behind")
    until(lambda: len(os.listdir("/proc/self/fd")) <= files + 20, [], "connections are left open")


def test_a_layer_goes_on_bit_for_bit_while_its_workers_die_and_join(checkpoint: Checkpoint, nursery: Nursery) -> None:
    """The exchange's view: rows of a dead pair go to a replica, a new worker's over gRPC until its pair stands."""
    gate, plain, dice = gates(checkpoint), PlainExchange(checkpoint, DTYPE), random.Random(2)
    batches = [random_batch(number, checkpoint.config.hidden_size, DTYPE) for number in range(10)]
    right = [run(plain, i % 2, gate[i % 2], batch) for i, batch in enumerate(batches)]
    living = [nursery.worker() for _ in range(4)]
    stats, slowest_s, steps = P2PStats(), 0.0, 0
    with exchange(checkpoint, connecting("nccl", checkpoint, DTYPE, stats, nccl=NcclLink)) as linked:

        def tell(epoch: int, ends: list[placement_pb2.Endpoint]) -> None:
            count = len(ends)
            linked.apply(
                place(epoch, checkpoint, ends, lambda layer, expert: sorted({expert % count, (expert + 1) % count}))
            )

        def go_on(count: int) -> None:
            nonlocal slowest_s, steps
            for _ in range(count):
                index = steps % len(batches)
                began_s = time.monotonic()
                assert torch.equal(run(linked, index % 2, gate[index % 2], batches[index]), right[index]), steps
                slowest_s, steps = max(slowest_s, time.monotonic() - began_s), steps + 1

        pulse = Pulse()
        for epoch in range(1, LAYER_KILLS + 1):
            tell(epoch, [peer.endpoint for peer in living])
            go_on(dice.randint(3, 8))
            living.pop(dice.randrange(len(living))).kill()
            go_on(2)
            living.append(nursery.worker())
        pulse.stop()
        assert linked.stats.total().retries >= LAYER_KILLS / 2, "the deaths were felt"
        assert 0 < stats.calls < linked.stats.total().messages_sent
        assert slowest_s <= 2 * (NOTICE_S + pulse.longest_s)


def until(holds: Callable[[], object], drivers: list[Future[None]], message: str = "it never came") -> None:
    """Waits for `holds()`; raises at once what a driver raised."""
    deadline = time.monotonic() + HANG_S
    while not holds():
        for driver in drivers:
            if driver.done():
                driver.result()
        assert time.monotonic() < deadline, message
        time.sleep(0.002)
