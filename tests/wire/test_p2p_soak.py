"""Hundreds of P2P groups break and connect while others run: no hang, no wrong bit, deaths noticed, others undisturbed;
and a layer over every link while its workers die and join.

Legend: R rows of a call, T tokens, D hidden, A (row, expert) assignments.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import pytest
import torch
from caracal_proto import placement_pb2
from support.expert_workers import (
    LINKS,
    MAX_TOKENS,
    connecting,
    gates,
    load_everything,
    open_dispatcher,
    place,
    random_batch,
    run,
)
from support.p2p_worker_pool import P2PWorkerPool, WorkerProcess
from support.reference_dispatcher import ReferenceDispatcher
from torch import Tensor

from services.checkpoint.reader import Checkpoint
from services.expert_worker.experts import Experts
from services.router.dispatch.errors import WorkerUnavailable
from services.router.dispatch.links import ExpertRequest
from services.router.dispatch.native_link import NativeStats
from services.router.dispatch.nccl_link import NcclLink, P2PStats

pytestmark = pytest.mark.processes

DTYPE = torch.bfloat16
GROUPS, KILLS = 5, 100  # concurrent P2P groups; each kill is followed by a join
LAYER_KILLS = 15  # over each link
NOTICE_S = 1.0  # a dead worker is noticed within this time
HANG_S = 15.0


class StallMeter:
    """Measures the longest time in which this process did not run, which a busy machine adds to every latency."""

    def __init__(self) -> None:
        self.longest_s = 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._measure, daemon=True)
        self._thread.start()

    def _measure(self) -> None:
        last = time.monotonic()
        while not self._over.wait(0.005):
            now = time.monotonic()
            self.longest_s, last = max(self.longest_s, now - last), now

    def stop(self) -> None:
        self._over.set()
        self._thread.join()


def calls(checkpoint: Checkpoint) -> list[tuple[ExpertRequest, Tensor]]:
    """Returns calls of many sizes, each with its right answer."""
    experts = load_everything(Experts(checkpoint, DTYPE))
    rng = torch.Generator().manual_seed(0)
    result = []
    for number in range(16):
        rows = int(torch.randint(1, MAX_TOKENS, (), generator=rng))
        x_RD = torch.randn(rows, experts.hidden, generator=rng).to(DTYPE)
        expert_A = torch.arange(experts.num_ffn, dtype=torch.int32).repeat_interleave(rows)
        row_A = torch.arange(rows, dtype=torch.int32).repeat(experts.num_ffn)
        chosen = torch.randint(0, checkpoint.config.moe_topk + 1, (rows,), generator=rng)  # experts of each row
        chosen[0] = 1
        kept = (torch.rand((experts.num_ffn, rows), generator=rng).argsort(0).argsort(0) < chosen).flatten()
        request = ExpertRequest(number, number % 2, 1, HANG_S, x_RD, row_A[kept], expert_A[kept])
        result.append((request, experts.compute(number % 2, x_RD, row_A[kept], expert_A[kept])))
    return result


@dataclass
class LinkUnderTest:
    """A link that is called without a pause until its worker dies, then replaced by one to a new worker."""

    link: NcclLink
    worker: WorkerProcess
    answered: int = 0
    slowest_s: float = 0.0
    killed_s: float = 0.0
    noticed: threading.Event = field(default_factory=threading.Event)
    noticed_s: float = 0.0
    replaced: threading.Event = field(default_factory=threading.Event)

    def in_use(self) -> bool:
        return self.link.p2p_connected and self.answered > 0

    def kill(self) -> None:
        self.killed_s = time.monotonic()
        self.worker.kill()

    def replace(self, link: NcclLink, worker: WorkerProcess) -> None:
        self.link.close()
        self.link, self.worker, self.killed_s = link, worker, 0.0
        self.noticed.clear()
        self.replaced.set()


def drive(lane: LinkUnderTest, work: list[tuple[ExpertRequest, Tensor]], over: threading.Event, seed: int) -> None:
    """Calls the link until `over`. Raises when an answer is wrong, or a call hangs or fails without a kill."""
    rng = random.Random(seed)
    while not over.is_set():
        request, right_AD = rng.choice(work)
        began_s = time.monotonic()
        try:
            answer = lane.link.dispatch(request).result(HANG_S)
        except WorkerUnavailable:
            assert lane.killed_s, "a group broke whose worker was not killed"
            lane.noticed_s = time.monotonic() - lane.killed_s
            lane.replaced.clear()
            lane.noticed.set()
            lane.replaced.wait()
        else:
            assert torch.equal(answer.y_AD, right_AD)
            lane.answered += 1
            lane.slowest_s = max(lane.slowest_s, time.monotonic() - began_s)


def test_groups_break_and_connect_and_the_others_are_undisturbed(checkpoint: Checkpoint, pool: P2PWorkerPool) -> None:
    work, rng, stats = calls(checkpoint), random.Random(1), P2PStats()
    connect = connecting("nccl", checkpoint, DTYPE, stats)

    def start_link() -> tuple[NcclLink, WorkerProcess]:
        worker = pool.worker()
        link = connect(worker.endpoint)
        assert isinstance(link, NcclLink)
        return link, worker

    lanes = [LinkUnderTest(*start_link()) for _ in range(GROUPS)]
    over, stalls = threading.Event(), StallMeter()
    threads = threading.active_count()
    notices: list[float] = []
    files = len(os.listdir("/proc/self/fd"))
    with ThreadPoolExecutor(GROUPS) as executor:
        drivers = [executor.submit(drive, lane, work, over, seed) for seed, lane in enumerate(lanes)]
        try:
            while len(notices) < KILLS:
                killed = rng.sample(lanes, rng.choice((1, 1, 2)))  # at least three groups go on
                for lane in killed:
                    until(lane.in_use, drivers)
                    lane.kill()
                for lane in killed:
                    until(lane.noticed.is_set, drivers)
                    notices.append(lane.noticed_s)
                    lane.replace(*start_link())
                time.sleep(rng.random() * 0.02)
        finally:
            over.set()
            for lane in lanes:
                lane.replaced.set()
        for driver in drivers:
            driver.result(HANG_S)
    stalls.stop()
    for lane in lanes:
        lane.link.close()
    allowed_s = NOTICE_S + stalls.longest_s
    assert max(notices) <= allowed_s
    assert sorted(notices)[len(notices) // 2] <= NOTICE_S
    assert max(lane.slowest_s for lane in lanes) <= allowed_s, "a call waited for another group"
    assert stats.connected >= len(notices), "every killed worker had a group"
    assert stats.calls > sum(lane.answered for lane in lanes) / 2
    until(lambda: threading.active_count() <= threads + GROUPS, [], "threads are left behind")
    until(lambda: len(os.listdir("/proc/self/fd")) <= files + 20, [], "connections are left open")


@pytest.mark.parametrize("link", LINKS)
def test_a_layer_stays_bit_exact_while_its_workers_die_and_join(
    checkpoint: Checkpoint, pool: P2PWorkerPool, link: str
) -> None:
    """Rows of a dead worker go to a replica, and those for a new one over gRPC until its group or session is there."""
    gate, plain, rng = gates(checkpoint), ReferenceDispatcher(checkpoint, DTYPE), random.Random(2)
    batches = [random_batch(number, checkpoint.config.hidden_size, DTYPE) for number in range(10)]
    right = [run(plain, i % 2, gate[i % 2], batch) for i, batch in enumerate(batches)]
    alive = [pool.worker() for _ in range(4)]
    groups, sessions, slowest_s, steps = P2PStats(), NativeStats(), 0.0, 0
    connect = connecting(link, checkpoint, DTYPE, groups, native_stats=sessions, waits=False)
    with open_dispatcher(checkpoint, connect) as dispatcher:

        def apply(epoch: int, ends: list[placement_pb2.Endpoint]) -> None:
            count = len(ends)
            dispatcher.apply(
                place(epoch, checkpoint, ends, lambda layer, expert: sorted({expert % count, (expert + 1) % count}))
            )

        def run_steps(count: int) -> None:
            nonlocal slowest_s, steps
            for _ in range(count):
                index = steps % len(batches)
                began_s = time.monotonic()
                assert torch.equal(run(dispatcher, index % 2, gate[index % 2], batches[index]), right[index]), steps
                slowest_s, steps = max(slowest_s, time.monotonic() - began_s), steps + 1

        stalls = StallMeter()
        for epoch in range(1, LAYER_KILLS + 1):
            apply(epoch, [worker.endpoint for worker in alive])
            run_steps(rng.randint(3, 8))
            alive.pop(rng.randrange(len(alive))).kill()
            run_steps(2)
            alive.append(pool.worker())
        stalls.stop()
        assert dispatcher.stats.total().retries >= LAYER_KILLS / 2, "the deaths caused retries"
        sent = {"nccl": groups.calls, "native": sessions.calls}
        for name, calls_sent in sent.items():
            assert (0 < calls_sent < dispatcher.stats.total().messages_sent) is (name == link), sent
        assert slowest_s <= 2 * (NOTICE_S + stalls.longest_s)


def until(condition: Callable[[], object], drivers: list[Future[None]], message: str = "timed out") -> None:
    """Waits until `condition()` is true; raises at once what a driver raised."""
    deadline = time.monotonic() + HANG_S
    while not condition():
        for driver in drivers:
            if driver.done():
                driver.result()
        assert time.monotonic() < deadline, message
        time.sleep(0.002)
