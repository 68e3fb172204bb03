"""A worker that is late is no longer waited for: its rows go to the replica, bit for bit, and it is avoided until
probes of it come back in time. Over every link, between real servers on loopback."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import count
from typing import Any

import pytest
import torch
from support.cluster_harness import until
from support.expert_workers import (
    Batch,
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
from support.native_layers import both_sides
from support.paged import Paged, local_dispatcher
from support.reference_dispatcher import ReferenceDispatcher
from torch import Tensor

from services.attention_worker.model import native_stack
from services.checkpoint.reader import Checkpoint
from services.expert_worker.batcher import Compute
from services.router.dispatch.call_latency import FEWEST, FIRST_HEDGES, HedgeOptions
from services.router.dispatch.heartbeats import FEWEST_BEATS, HEARTBEAT_S
from services.router.dispatch.links import Connect
from services.router.dispatch.moe_dispatcher import MoEDispatcher
from services.router.dispatch.native_link import NativeStats

pytestmark = pytest.mark.processes

DTYPE = torch.bfloat16
LATE_S = 0.4  # over a native session signs of life are late as well: less than it takes until one is given up
HEDGING = HedgeOptions(quantile=0.9, budget=1.0, floor_s=0.25)
NEVER = HedgeOptions(quantile=0.0)


def late(reply: Any, seconds: float = LATE_S) -> Any:
    time.sleep(seconds)
    return reply


def drop(reply: Any) -> None:
    return None


def knows(dispatcher: MoEDispatcher, step: Callable[[], object]) -> None:
    """Runs steps until their calls' latencies are known."""
    for _ in range(FEWEST + 1):
        step()
    until(lambda: dispatcher.knows_latencies, "no latency is known", 10)


def batch_of(checkpoint: Checkpoint) -> Batch:
    return random_batch(0, checkpoint.config.hidden_size, DTYPE, tokens=12)


@contextmanager
def both_with_all(
    checkpoint: Checkpoint, connect: Connect, two: list[Worker]
) -> Iterator[tuple[MoEDispatcher, Callable[[], Tensor], Tensor]]:
    """A dispatcher of two workers with all experts each, whose latencies are known; a step of it, and what is right."""
    gate, batch = gates(checkpoint)[0], batch_of(checkpoint)
    with open_dispatcher(checkpoint, connect, hedging=HEDGING) as dispatcher:
        dispatcher.apply(place(1, checkpoint, [w.endpoint for w in two], lambda layer, expert: [0, 1]))
        step = partial(run, dispatcher, 0, gate, batch)
        knows(dispatcher, step)
        yield dispatcher, step, run(ReferenceDispatcher(checkpoint, DTYPE), 0, gate, batch)


@pytest.mark.parametrize("fault", [late, drop], ids=lambda fault: fault.__name__)
def test_a_late_worker_is_found_out_and_found_again(
    checkpoint: Checkpoint, connect: Connect, two: list[Worker], fault: Any
) -> None:
    with both_with_all(checkpoint, connect, two) as (dispatcher, step, expected):
        two[0].service.fault = fault
        began_s = time.monotonic()
        for _ in range(6):
            assert torch.equal(step(), expected)
        assert time.monotonic() - began_s < 6 * LATE_S, "nobody waited for the late replies"
        stats = dispatcher.stats.total()
        assert 3 <= stats.hedges_won <= stats.hedges
        assert stats.retries == 0
        assert dispatcher.suspects == 1
        two[0].service.fault = lambda reply: reply
        until(lambda: not dispatcher.suspects, "it stays a suspect", 20)
        before = len(two[0].service.calls)
        assert torch.equal(step(), expected)
        assert len(two[0].service.calls) > before


def test_without_hedges_a_late_worker_is_waited_for(
    checkpoint: Checkpoint, connect: Connect, two: list[Worker]
) -> None:
    gate, batch = gates(checkpoint)[0], batch_of(checkpoint)
    with open_dispatcher(checkpoint, connect, hedging=NEVER) as dispatcher:
        dispatcher.apply(place(1, checkpoint, [w.endpoint for w in two], lambda layer, expert: [0, 1]))
        for _ in range(FEWEST + 1):
            run(dispatcher, 0, gate, batch)
        two[0].service.fault = late
        began_s = time.monotonic()
        run(dispatcher, 0, gate, batch)
        assert time.monotonic() - began_s >= LATE_S
        assert (dispatcher.stats.total().hedges, dispatcher.suspects) == (0, 0)


def test_a_late_worker_with_the_only_replica_is_waited_for(
    checkpoint: Checkpoint, connect: Connect, two: list[Worker]
) -> None:
    gate, batch = gates(checkpoint)[0], batch_of(checkpoint)
    expected = run(ReferenceDispatcher(checkpoint, DTYPE), 0, gate, batch)
    with open_dispatcher(checkpoint, connect, hedging=HEDGING) as dispatcher:
        # Expert 0 has two replicas, so that latencies are looked at; the others of the first worker have one.
        only = place(1, checkpoint, [w.endpoint for w in two], lambda layer, expert: [expert % 2] if expert else [0, 1])
        dispatcher.apply(only)
        knows(dispatcher, lambda: run(dispatcher, 0, gate, batch))
        for worker in two:
            worker.service.fault = late
        assert torch.equal(run(dispatcher, 0, gate, batch), expected)
        assert (dispatcher.stats.total().hedges_won, dispatcher.suspects) == (0, 0)


def test_a_late_call_goes_to_a_suspect_where_there_is_no_other(
    checkpoint: Checkpoint, connect: Connect, two: list[Worker]
) -> None:
    with both_with_all(checkpoint, connect, two) as (dispatcher, step, expected):
        two[0].service.fault = drop
        while not dispatcher.suspects:
            step()
        won = dispatcher.stats.total().hedges_won
        two[0].service.fault, two[1].service.fault = lambda reply: reply, drop
        assert dispatcher.suspects == 1, "no probe says yet that it is well again"
        assert torch.equal(step(), expected)
        stats = dispatcher.stats.total()
        assert (stats.hedges_won, stats.retries) == (won + 1, 0)


def test_a_call_that_could_not_be_hedged_is_once_another_worker_has_answered(
    checkpoint: Checkpoint, connect: Connect, two: list[Worker]
) -> None:
    with both_with_all(checkpoint, connect, two) as (dispatcher, step, expected):
        # Twice 0.3 s: a P2P group breaks 0.8 s after a reply that was dropped, and then the call is retried.
        two[0].service.fault, two[1].service.fault = drop, partial(late, seconds=HEDGING.floor_s + 0.05)
        assert torch.equal(step(), expected)
        stats = dispatcher.stats.total()
        assert (stats.hedges_won, stats.retries) == (1, 0)


def test_workers_that_compute_for_long_and_give_signs_of_life_are_no_suspects(checkpoint: Checkpoint) -> None:
    """For longer than a silent worker has. Both, so that no hedge is faster."""
    seconds = [0.0]

    def slow(compute: Compute) -> Compute:
        def slowed(layer: int, x_RD: Tensor, row_A: Tensor, expert_A: Tensor) -> Tensor:
            time.sleep(seconds[0])
            return compute(layer, x_RD, row_A, expert_A)

        return slowed

    gate, batch, stats = gates(checkpoint)[0], batch_of(checkpoint), NativeStats()
    expected = run(ReferenceDispatcher(checkpoint, DTYPE), 0, gate, batch)
    hedging = HedgeOptions(quantile=0.9, budget=1.0, floor_s=0.05)
    connect = connecting("native", checkpoint, DTYPE, native_stats=stats)
    with (
        workers(checkpoint, DTYPE, 2, around=slow) as two,
        open_dispatcher(checkpoint, connect, hedging=hedging) as dispatcher,
    ):
        for worker in two:
            load_everything(worker.experts)
        dispatcher.apply(place(1, checkpoint, [w.endpoint for w in two], lambda layer, expert: [0, 1]))
        knows(dispatcher, lambda: run(dispatcher, 0, gate, batch))
        seconds[0] = 3 * (0.05 + FEWEST_BEATS * HEARTBEAT_S)
        for _ in range(3):
            assert torch.equal(run(dispatcher, 0, gate, batch), expected)
        assert (dispatcher.suspects, stats.broken, dispatcher.stats.total().retries) == (0, 0, 0)


def test_hedges_keep_to_the_budget(checkpoint: Checkpoint, two: list[Worker]) -> None:
    """Every second reply of a worker is late, so that it never is so in a row; later than a call is at the start."""
    gate, batch = gates(checkpoint)[0], batch_of(checkpoint)
    expected = run(ReferenceDispatcher(checkpoint, DTYPE), 0, gate, batch)
    hedging = HedgeOptions(quantile=0.9, budget=0.0, floor_s=0.03)
    with open_dispatcher(checkpoint, connecting("grpc", checkpoint, DTYPE), hedging=hedging) as dispatcher:
        dispatcher.apply(place(1, checkpoint, [w.endpoint for w in two], lambda layer, expert: [0, 1]))
        knows(dispatcher, lambda: run(dispatcher, 0, gate, batch))
        replies = count()
        two[0].service.fault = lambda reply: late(reply, 0.2) if next(replies) % 2 else reply
        for number in range(2 * FIRST_HEDGES + 8):
            assert torch.equal(run(dispatcher, 0, gate, batch), expected)
            time.sleep(0.2 * (number % 2))  # until the late reply is out of the way of the next
        assert 0 < dispatcher.stats.total().hedges <= FIRST_HEDGES


@pytest.mark.compiled
@pytest.mark.skipif(bool(native_stack.unavailable()), reason="layers cannot run natively here")
def test_native_layers_leave_late_calls_to_hedges(checkpoint: Checkpoint, two: list[Worker]) -> None:
    with (
        both_sides(checkpoint, DTYPE, hedging=HEDGING) as sides,
        local_dispatcher(checkpoint, DTYPE) as local,
    ):
        plain = Paged(sides.model, local, sequences=4, capacity=192)
        sides.native.dispatcher.apply(place(1, checkpoint, [w.endpoint for w in two], lambda layer, expert: [0, 1]))

        def step(number: int) -> None:
            chunk = {0: [number % 100 + 1]}
            native = sides.native.feed(chunk)
            assert torch.equal(native.view(torch.int32), plain.feed(chunk)[0].view(torch.int32)), f"step {number}"

        warm = 2 * FEWEST
        for number in range(warm):
            step(number)
        dispatcher = sides.native.dispatcher
        until(lambda: dispatcher.knows_latencies, "no latency is known", 10)
        before = sides.native.native_layers
        two[0].service.fault = late
        for number in range(warm, warm + 16):
            step(number)
        assert dispatcher.stats.total().hedges_won >= 3
        assert dispatcher.suspects == 1
        layers = checkpoint.config.num_layers
        assert sides.native.native_layers == before + 16 * layers, "native code goes on without the suspect"
        two[0].service.fault = lambda reply: reply
        until(lambda: not dispatcher.suspects, "it stays a suspect", 20)
        step(warm + 16)
