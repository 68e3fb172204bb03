"""Calls to expert workers that are computed again: of workers that compute as they should none differs, and one of
which bits flip is found, convicted and avoided. Over links to real servers on loopback."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from caracal_proto.placement_pb2 import Endpoint
from support.cluster_harness import until
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
from support.flipping_experts import KINDS, FlippingExperts
from support.native_layers import both_sides, steps
from support.reference_dispatcher import ReferenceDispatcher

from services.attention_worker.model import native_stack
from services.checkpoint.reader import Checkpoint
from services.router.dispatch.grpc_link import GrpcLink
from services.router.dispatch.links import Link
from services.router.dispatch.moe_dispatcher import MoEDispatcher
from services.router.dispatch.shadow_calls import ShadowOptions
from services.router.dispatch.table import Key

pytestmark = pytest.mark.processes

DTYPE = torch.bfloat16
ALL = ShadowOptions(share=1.0, busy=1.0)


@contextmanager
def flipping(checkpoint: Checkpoint, count: int) -> Iterator[tuple[list[Worker], FlippingExperts]]:
    """Workers that have every expert, and the faults of the first."""
    faults = FlippingExperts()
    with workers(checkpoint, DTYPE, 1, around=faults.around) as bad, workers(checkpoint, DTYPE, count) as good:
        faults.worker = bad[0]
        running = [*bad, *good[1:]]  # the names are w0, w1, ...
        for worker in running:
            load_everything(worker.experts)
        yield running, faults


def compared(dispatcher: MoEDispatcher) -> None:
    """Waits until nothing is left to be compared."""
    until(lambda: not dispatcher.shadow_waiting, "calls wait to be compared", 20)


class BreaksOnce:
    """A link that raises what no link should, the first time it is used."""

    def __init__(self) -> None:
        self.left = 1

    def __call__(self, endpoint: Endpoint) -> Link:
        if self.left:
            self.left -= 1
            raise ValueError("nobody expects this")
        return GrpcLink(endpoint)


def test_comparing_goes_on_after_something_that_nobody_expects(checkpoint: Checkpoint) -> None:
    gate = gates(checkpoint)[0]
    options = ShadowOptions(share=1.0, busy=1.0, connect=BreaksOnce())
    with (
        flipping(checkpoint, 2) as (running, _),
        open_dispatcher(checkpoint, GrpcLink, shadow=options) as dispatcher,
    ):
        dispatcher.apply(place(1, checkpoint, [w.endpoint for w in running], lambda layer, expert: [0, 1]))
        batch = random_batch(0, checkpoint.config.hidden_size, DTYPE, tokens=12)
        for _ in range(2):
            run(dispatcher, 0, gate, batch)
            compared(dispatcher)
        stats = dispatcher.shadow_stats
        assert (stats.failures, stats.differences) == (1, 0)
        assert stats.assignments > 0


@pytest.mark.parametrize("link", ["grpc", "native"])
def test_workers_that_compute_as_they_should_never_differ(checkpoint: Checkpoint, link: str) -> None:
    gate = gates(checkpoint)[0]
    with (
        flipping(checkpoint, 3) as (running, _),
        open_dispatcher(checkpoint, connecting(link, checkpoint, DTYPE), shadow=ALL) as dispatcher,
    ):
        table = place(1, checkpoint, [w.endpoint for w in running], lambda layer, e: [e % 3, (e + 1) % 3] if e else [0])
        dispatcher.apply(table)
        for number in range(40):
            run(dispatcher, 0, gate, random_batch(number, checkpoint.config.hidden_size, DTYPE))
            compared(dispatcher)
        stats = dispatcher.shadow_stats
        assert stats.assignments == dispatcher.stats.total().assignments_sent
        assert (stats.differences, stats.unanswered, stats.dropped) == (0, 0, 0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [2, 3])
def test_a_worker_of_which_bits_flip_now_and_then_is_convicted_and_avoided(
    checkpoint: Checkpoint, kind: str, count: int
) -> None:
    convicted: list[Key] = []
    shadow = ShadowOptions(share=1.0, busy=1.0, convict=lambda key, reason: convicted.append(key))
    gate = gates(checkpoint)[0]
    with (
        flipping(checkpoint, count) as (running, faults),
        open_dispatcher(checkpoint, connecting("grpc", checkpoint, DTYPE), shadow=shadow) as dispatcher,
    ):
        everywhere = list(range(count))
        dispatcher.apply(place(1, checkpoint, [w.endpoint for w in running], lambda layer, expert: everywhere))
        faults.kind, faults.every = kind, 5
        for number in range(100):
            run(dispatcher, 0, gate, random_batch(number, checkpoint.config.hidden_size, DTYPE, tokens=12))
            compared(dispatcher)
            if convicted:
                break
        assert convicted == [("w0", "boot-w0", running[0].endpoint.address)]
        assert dispatcher.shadow_stats.undecided == 0
        before = len(running[0].service.calls)
        batch = random_batch(3, checkpoint.config.hidden_size, DTYPE, tokens=12)
        expected = run(ReferenceDispatcher(checkpoint, DTYPE), 0, gate, batch)
        assert torch.equal(run(dispatcher, 0, gate, batch), expected)
        compared(dispatcher)
        assert len(running[0].service.calls) == before, "nothing is asked of it, to compare neither"


def test_one_that_is_always_wrong_is_convicted_by_two_others(checkpoint: Checkpoint) -> None:
    gate = gates(checkpoint)[0]
    with (
        flipping(checkpoint, 3) as (running, faults),
        open_dispatcher(checkpoint, connecting("grpc", checkpoint, DTYPE), shadow=ALL) as dispatcher,
    ):
        dispatcher.apply(place(1, checkpoint, [w.endpoint for w in running], lambda layer, expert: [0, 1, 2]))
        faults.every = 1
        for number in range(4):
            run(dispatcher, 0, gate, random_batch(number, checkpoint.config.hidden_size, DTYPE, tokens=12))
            compared(dispatcher)
        assert dispatcher.shadow_stats.convicted == 1


def test_of_two_that_always_differ_nobody_is_convicted(checkpoint: Checkpoint) -> None:
    gate = gates(checkpoint)[0]
    with (
        flipping(checkpoint, 2) as (running, faults),
        open_dispatcher(checkpoint, connecting("grpc", checkpoint, DTYPE), shadow=ALL) as dispatcher,
    ):
        dispatcher.apply(place(1, checkpoint, [w.endpoint for w in running], lambda layer, expert: [0, 1]))
        faults.every = 1
        for number in range(4):
            run(dispatcher, 0, gate, random_batch(number, checkpoint.config.hidden_size, DTYPE, tokens=12))
            compared(dispatcher)
        stats = dispatcher.shadow_stats
        assert stats.undecided > 0
        assert stats.convicted == 0


def test_the_only_holder_contradicts_itself_and_goes_on(checkpoint: Checkpoint) -> None:
    gate = gates(checkpoint)[0]
    with (
        flipping(checkpoint, 1) as (running, faults),
        open_dispatcher(checkpoint, connecting("grpc", checkpoint, DTYPE), shadow=ALL) as dispatcher,
    ):
        dispatcher.apply(place(1, checkpoint, [w.endpoint for w in running], lambda layer, expert: [0]))
        faults.every = 3
        for number in range(20):
            run(dispatcher, 0, gate, random_batch(number, checkpoint.config.hidden_size, DTYPE, tokens=12))
            compared(dispatcher)
        assert dispatcher.shadow_stats.convicted == 1
        faults.every = 0
        batch = random_batch(3, checkpoint.config.hidden_size, DTYPE, tokens=12)
        expected = run(ReferenceDispatcher(checkpoint, DTYPE), 0, gate, batch)
        assert torch.equal(run(dispatcher, 0, gate, batch), expected), "its experts are nowhere else"


def test_without_a_share_nothing_is_computed_again(checkpoint: Checkpoint) -> None:
    gate = gates(checkpoint)[0]
    with (
        flipping(checkpoint, 2) as (running, faults),
        open_dispatcher(checkpoint, connecting("grpc", checkpoint, DTYPE)) as dispatcher,
    ):
        dispatcher.apply(place(1, checkpoint, [w.endpoint for w in running], lambda layer, expert: [0, 1]))
        faults.every = 1
        dispatcher.look_closely(60.0)
        for number in range(4):
            run(dispatcher, 0, gate, random_batch(number, checkpoint.config.hidden_size, DTYPE))
        assert sum(len(worker.service.calls) for worker in running) == dispatcher.stats.total().messages_sent
        assert dispatcher.shadow_stats.calls == 0


@pytest.mark.compiled
@pytest.mark.skipif(bool(native_stack.unavailable()), reason="layers cannot run natively here")
def test_native_layers_keep_what_the_hash_chooses_and_stay_native(checkpoint: Checkpoint) -> None:
    shadow = ShadowOptions(share=0.3, busy=1.0)
    config = checkpoint.config
    with flipping(checkpoint, 2) as (running, faults), both_sides(checkpoint, DTYPE, shadow=shadow) as sides:
        sides.apply(place(1, checkpoint, [w.endpoint for w in running], lambda layer, expert: [0, 1]))
        native, python = sides.native.dispatcher, sides.python.dispatcher
        for chunks in steps(config.vocab_size, 4, 12):
            logits = sides.native.feed(chunks)
            assert torch.equal(logits, sides.python.feed(chunks))
            compared(native)
            compared(python)
        stats, other = native.shadow_stats, python.shadow_stats
        assert 0 < stats.assignments == other.assignments < native.stats.total().assignments_sent
        assert (stats.differences, stats.dropped, stats.unanswered) == (0, 0, 0)
        assert sides.native.native_layers == 12 * config.num_layers
        faults.every = 4
        for chunks in [*steps(config.vocab_size, 4, 40, seed=1, longest=5)]:
            if native.shadow_stats.convicted:
                break
            sides.native.feed(chunks)
            compared(native)
        assert native.shadow_stats.convicted == 1
        before = sides.native.native_layers
        sides.native.feed({0: [1]})
        assert sides.native.native_layers == before + config.num_layers, "native code goes on without the convicted"
