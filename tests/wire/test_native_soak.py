"""Native sessions break in every way for a while: bits stay, and callers whose sessions are whole notice nothing."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator

import pytest
import torch
from caracal_proto import expert_pb2
from support.expert_workers import (
    Worker,
    connecting,
    gates,
    load_everything,
    open_dispatcher,
    place,
    random_batch,
    run,
    workers,
)
from support.reference_dispatcher import ReferenceDispatcher

from services.checkpoint.reader import Checkpoint
from services.router.dispatch.native_link import NativeStats

DTYPE = torch.bfloat16
SOAK_S = 2.0
Reply = expert_pb2.ExpertReply


class Havoc:
    """Now and then loses, damages, cuts or delays a reply, or hangs up."""

    def __init__(self) -> None:
        self.random = random.Random(1)
        self.done = dict.fromkeys(("drop", "damage", "cut", "delay", "hang up"), 0)

    def __call__(self, reply: Reply) -> Reply | None:
        if self.random.random() > 0.05 or reply.status:
            return reply
        kind = self.random.choice(list(self.done))
        self.done[kind] += 1
        if kind == "drop":
            return None
        if kind == "hang up":
            raise RuntimeError("the test's worker hangs up")
        if kind == "delay":
            time.sleep(0.02)
        elif kind == "damage":
            data = bytearray(reply.y.data)
            data[self.random.randrange(len(data))] ^= 1 << self.random.randrange(8)
            reply.y.data = bytes(data)
        else:
            reply.y.shape[0] -= 1
            reply.y.data = reply.y.data[: len(reply.y.data) // 2]
        return reply


@pytest.fixture
def three(checkpoint: Checkpoint) -> Iterator[list[Worker]]:
    with workers(checkpoint, DTYPE, 3) as running:
        for worker in running:
            load_everything(worker.experts)
        yield running


def test_sessions_break_and_are_opened_again_and_the_others_are_undisturbed(
    checkpoint: Checkpoint, three: list[Worker]
) -> None:
    gate, plain, havoc = gates(checkpoint), ReferenceDispatcher(checkpoint, DTYPE), Havoc()
    batches = [random_batch(number, checkpoint.config.hidden_size, DTYPE, tokens=8) for number in range(6)]
    right = [run(plain, number % 2, gate[number % 2], batch) for number, batch in enumerate(batches)]
    ends = [worker.endpoint for worker in three]
    broken, whole = NativeStats(), NativeStats()
    wrong: list[str] = []
    until_s = time.monotonic() + SOAK_S

    def happened() -> bool:
        """Whether every kind of fault has come, on a slow machine too; the test's timeout bounds the wait."""
        return all(havoc.done.values()) and broken.broken > 5 and broken.opened > 3

    def caller(name: str, stats: NativeStats, used: list[int], call_timeout_s: float) -> None:
        connect = connecting("native", checkpoint, DTYPE, native_stats=stats)
        with open_dispatcher(checkpoint, connect, call_timeout_s=call_timeout_s) as dispatcher:
            dispatcher.apply(
                place(1, checkpoint, [ends[w] for w in used], lambda layer, expert: list(range(len(used))))
            )
            steps = 0
            while time.monotonic() < until_s or not happened():
                number = steps % len(batches)
                layer = number % 2
                if not torch.equal(run(dispatcher, layer, gate[layer], batches[number]), right[number]):
                    wrong.append(f"{name}, step {steps}")
                steps += 1
            if name == "whole" and dispatcher.stats.total().retries:
                wrong.append("a session that nobody touched had to be asked again")

    three[0].service.fault = three[1].service.fault = havoc
    threads = [
        threading.Thread(target=caller, args=("broken", broken, [0, 1], 0.4)),
        threading.Thread(target=caller, args=("whole", whole, [2], 30.0)),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert happened()
    assert (whole.opened, whole.broken, whole.over_grpc) == (1, 0, 0)
