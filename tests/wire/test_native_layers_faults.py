"""What goes wrong while native code runs the layers is put right by Python, in the layer where it happened.

The bits are those of a step without faults.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from support.changing_tables import apply_tables
from support.cluster_harness import until
from support.expert_workers import Worker, load_everything, place, workers
from support.native_layers import Chunks, Sides, both_sides, steps
from support.p2p_worker_pool import P2PWorkerPool
from support.paged import Paged, local_dispatcher
from support.tiny_checkpoint import make_checkpoint
from support.wire_faults import FAULTS, drop, flip_a_bit, hang_up, inject, malformed_call, nan
from torch import Tensor

from services.attention_worker.model import native_stack
from services.checkpoint.reader import Checkpoint
from services.expert_worker.batcher import Compute
from services.router.dispatch.errors import ExpertsUnavailable

pytestmark = [
    pytest.mark.processes,
    pytest.mark.compiled,
    pytest.mark.skipif(bool(native_stack.unavailable()), reason="layers cannot run natively here"),
]

DTYPE = torch.bfloat16
LAYERS = 5
TABLES = 40
STEP: Chunks = {0: [5, 6, 7, 8, 9, 10, 11], 1: [12], 2: [13]}


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("five"), dtype=DTYPE, num_layers=LAYERS)


@dataclass
class Hook:
    """Runs `at[layer]` once, before a launch of that layer on any worker."""

    at: dict[int, Callable[[], object]] = field(default_factory=dict)

    def around(self, compute: Compute) -> Compute:
        def hooked(layer: int, x_RD: Tensor, row_A: Tensor, expert_A: Tensor) -> Tensor:
            if (now := self.at.pop(layer, None)) is not None:
                now()
            return compute(layer, x_RD, row_A, expert_A)

        return hooked


@pytest.fixture
def hook() -> Hook:
    return Hook()


@pytest.fixture
def two(checkpoint: Checkpoint, hook: Hook) -> Iterator[list[Worker]]:
    with workers(checkpoint, DTYPE, 2, around=hook.around) as running:
        for worker in running:
            load_everything(worker.experts)
        yield running


def everywhere(checkpoint: Checkpoint, running: list[Worker], epoch: int = 1) -> Any:
    return place(epoch, checkpoint, [w.endpoint for w in running], lambda layer, expert: list(range(len(running))))


def halves(checkpoint: Checkpoint, running: list[Worker], epoch: int = 1) -> Any:
    return place(epoch, checkpoint, [w.endpoint for w in running], lambda layer, expert: [expert % len(running)])


def same_as_python(sides: Sides, chunks: Chunks) -> None:
    """The native side's step first, so that a fault that comes once hits it alone."""
    native = sides.native.feed(chunks)
    assert torch.equal(native.view(torch.int32), sides.python.feed(chunks).view(torch.int32))


def natively_again(sides: Sides) -> None:
    """Feeds a sequence of its own until all layers of a step ran natively: who has failed is avoided for a while."""
    end = time.monotonic() + 10
    while True:
        before = sides.native.native_layers
        same_as_python(sides, {3: [3]})
        if sides.native.native_layers == before + LAYERS:
            return
        assert time.monotonic() < end, "native code never ran again"
        time.sleep(0.05)


def once(fault: Any, after: int) -> Any:
    """A fault that the answer after so many others has."""
    left = [after]

    def maybe(answer: Any) -> Any:
        left[0] -= 1
        return fault(answer) if left[0] == -1 else answer

    maybe.__name__ = fault.__name__
    return maybe


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_bad_reply_is_asked_of_the_replica(checkpoint: Checkpoint, two: list[Worker], fault: Any) -> None:
    for layer in (0, 3, LAYERS - 1):
        with both_sides(checkpoint, DTYPE, call_timeout_s=0.5) as sides:
            sides.apply(everywhere(checkpoint, two))
            same_as_python(sides, STEP)
            if fault is nan:
                two[0].corrupt = once(nan, layer)
            else:
                inject(two[0], once(fault, layer))
            same_as_python(sides, STEP)
            only_what_is_missing_was_asked_again(sides, layer)
            if layer == 3 and fault in (drop, flip_a_bit, hang_up):  # a call without an end, a reply, a session
                natively_again(sides)


def only_what_is_missing_was_asked_again(sides: Sides, layer: int) -> None:
    """After two steps, the native side's second one with a bad reply in `layer`."""
    stats, before = sides.native.dispatcher.stats, sides.python.dispatcher.stats
    assert [each.retries for each in stats.layers] == [int(index == layer) for index in range(LAYERS)]
    assert sides.native.native_layers >= LAYERS + layer + 1, "up to the layer with the fault it ran natively"
    asked_again = stats.total().assignments_sent - before.total().assignments_sent
    assert 0 < asked_again < stats.layers[layer].ffn_choices
    for name in ("layer_calls", "choices", "ffn_choices", "tokens", "tokens_all_zero", "bytes_received"):
        assert getattr(stats.total(), name) == getattr(before.total(), name), name


@pytest.mark.parametrize("fault", [flip_a_bit, nan], ids=lambda fault: fault.__name__)
def test_without_a_replica_the_same_worker_is_asked_again(
    checkpoint: Checkpoint, two: list[Worker], fault: Any
) -> None:
    with both_sides(checkpoint, DTYPE) as sides:
        sides.apply(halves(checkpoint, two))
        if fault is nan:
            two[1].corrupt = once(nan, 2)
        else:
            inject(two[1], once(fault, 2))
        same_as_python(sides, STEP)
        assert sides.native.dispatcher.stats.layers[2].retries == 1
        natively_again(sides)


def test_rows_that_are_not_finite_anywhere_are_used(checkpoint: Checkpoint, two: list[Worker]) -> None:
    """A row of every launch has an infinity: a second computation gives the same bits, so they are the model's."""

    def infinite(y_AD: Tensor) -> Tensor:
        bad_AD = y_AD.clone()
        bad_AD[0, 0] = torch.inf
        return bad_AD

    with both_sides(checkpoint, DTYPE, expert_wait_s=10) as sides:
        sides.apply(place(1, checkpoint, [two[0].endpoint], lambda layer, expert: [0]))
        two[0].corrupt = infinite
        same_as_python(sides, STEP)
        assert sides.native.native_layers > 0
        assert sides.native.dispatcher.stats.total().retries > 0
        two[0].corrupt = lambda y_AD: y_AD
        natively_again(sides)


def test_when_no_worker_answers_the_step_fails_and_names_the_experts(checkpoint: Checkpoint, two: list[Worker]) -> None:
    with both_sides(checkpoint, DTYPE, expert_wait_s=0.4) as sides:
        sides.apply(halves(checkpoint, two))
        two[0].service.fault = flip_a_bit
        with pytest.raises(ExpertsUnavailable, match=r"of layer 0 .*checksum"):
            sides.native.feed(STEP)
        assert sides.native.native_layers == 1
        two[0].service.fault = lambda reply: reply
        natively_again(sides)


def test_a_call_that_stays_malformed_fails_after_the_wait(checkpoint: Checkpoint, two: list[Worker]) -> None:
    with both_sides(checkpoint, DTYPE, expert_wait_s=0.4) as sides:
        sides.apply(everywhere(checkpoint, two))
        for worker in two:
            worker.service.fault = malformed_call
        with pytest.raises(ExpertsUnavailable, match="an expert outside"):
            sides.native.feed(STEP)
        assert sides.native.native_layers == 1


def test_a_stale_call_is_sent_again_and_the_next_layers_are_native(checkpoint: Checkpoint) -> None:
    with workers(checkpoint, DTYPE, 2) as two:
        old, new = halves(checkpoint, two, 1), everywhere(checkpoint, two, 2)
        for table in (old, new):
            for worker in two:
                worker.apply(table)

        def refresh() -> None:
            threading.Timer(0.1, sides.apply, [new]).start()

        with both_sides(checkpoint, DTYPE, refresh=refresh) as sides:
            sides.apply(old)
            same_as_python(sides, STEP)
            stats = sides.native.dispatcher.stats
            assert [each.stale_epoch_rejections for each in stats.layers] == [2, 0, 0, 0, 0]
            assert sides.native.native_layers == LAYERS, "the stale layer began natively, those after it are native"
            assert sides.native.dispatcher.epoch == 2
            natively_again(sides)


def test_an_expert_that_is_not_loaded_is_asked_of_the_replica(checkpoint: Checkpoint, two: list[Worker]) -> None:
    for layer in (1, 3):
        for expert in range(0, 8, 2):
            two[0].experts.drop(layer, expert)
    with both_sides(checkpoint, DTYPE) as sides:
        sides.apply(everywhere(checkpoint, two))
        for chunks in steps(checkpoint.config.vocab_size, 3, 4):
            same_as_python(sides, chunks)
        assert sides.native.counts() == sides.python.counts(), "retries too: both ask in the same way"
        assert sides.native.dispatcher.stats.total().retries > 2
        assert sides.native.native_layers == 4 * LAYERS, "no worker is avoided for it"


def test_a_table_that_comes_between_two_layers_is_used_from_the_next_one_on(
    checkpoint: Checkpoint, two: list[Worker], hook: Hook
) -> None:
    endpoints = [worker.endpoint for worker in two]
    first = place(1, checkpoint, endpoints, lambda layer, expert: [0])
    second = place(2, checkpoint, endpoints, lambda layer, expert: [1])
    with both_sides(checkpoint, DTYPE) as sides:
        sides.apply(first)
        hook.at[2] = lambda: sides.apply(second)
        same_as_python(sides, STEP)
        before, after = ([call.layer for call in worker.service.calls] for worker in two)
        assert before == [0, 1, 2]
        assert after == [3, 4, *range(LAYERS)], "then the whole step of the other side"
        assert sides.native.native_layers >= LAYERS - 1


def test_a_session_that_ends_between_two_layers(checkpoint: Checkpoint, two: list[Worker], hook: Hook) -> None:
    """Its calls in flight go to the replica, as do later ones, until a new session is open."""
    native = two[1].service.native
    assert native is not None
    with both_sides(checkpoint, DTYPE) as sides:
        sides.apply(everywhere(checkpoint, two))
        same_as_python(sides, STEP)
        hook.at[2] = native.stop
        same_as_python(sides, STEP)
        assert sides.native.native_layers <= 2 * LAYERS
        assert sides.native.calls.broken == 1
        two[1].service.native = two[1].service.new_native(two[1].state, two[1].batcher)
        natively_again(sides)
        until(lambda: sides.native.calls.opened == 3, "no session is opened again")


def test_an_op_that_fails_while_rows_are_away_ends_the_step_alone(checkpoint: Checkpoint, two: list[Worker]) -> None:
    """The second attention of layer 1 gets a cache of another width, when rows are on their way to the experts."""
    with both_sides(checkpoint, DTYPE) as sides:
        sides.apply(everywhere(checkpoint, two))
        kept = sides.native.caches[3]
        sides.native.caches[3] = kept[:, :, :-1].contiguous()
        with pytest.raises(RuntimeError, match=r"^mla_project: cache has size"):
            sides.native.feed(STEP)
        assert sides.native.native_layers == 2
        sides.native.caches[3] = kept
        natively_again(sides)


def test_a_worker_killed_in_the_middle_of_a_step(checkpoint: Checkpoint, pool: P2PWorkerPool) -> None:
    ends = [pool.worker(slow_s=0.1) for _ in range(2)]
    with both_sides(checkpoint, DTYPE) as sides:
        sides.apply(place(1, checkpoint, [end.endpoint for end in ends], lambda layer, expert: [0, 1]))
        same_as_python(sides, STEP)
        killing = threading.Timer(0.25, ends[0].kill)
        killing.start()
        same_as_python(sides, STEP)
        killing.join()
        assert sides.native.dispatcher.stats.total().retries == 1
        assert LAYERS < sides.native.native_layers <= 2 * LAYERS
        sides.apply(place(2, checkpoint, [ends[1].endpoint], lambda layer, expert: [0]))
        natively_again(sides)


def test_a_worker_that_stands_still_is_given_up_and_found_again(checkpoint: Checkpoint, pool: P2PWorkerPool) -> None:
    ends = [pool.worker(direct=True) for _ in range(2)]
    with both_sides(checkpoint, DTYPE, call_timeout_s=30) as sides:
        sides.apply(place(1, checkpoint, [end.endpoint for end in ends], lambda layer, expert: [0, 1]))
        same_as_python(sides, STEP)
        ends[0].signal(signal.SIGSTOP)
        began_s = time.monotonic()
        native = sides.native.feed(STEP)
        assert 0.3 < time.monotonic() - began_s < 5, "by its missing signs of life, not by the call's deadline"
        ends[0].signal(signal.SIGCONT)
        assert torch.equal(native, sides.python.feed(STEP))
        natively_again(sides)


def test_tables_that_change_all_the_time_never_change_a_bit(checkpoint: Checkpoint) -> None:
    """Workers commit them before and after the dispatcher applies them."""
    done, number, sequences = threading.Event(), 0, 64
    with (
        workers(checkpoint, DTYPE, 3) as three,
        both_sides(checkpoint, DTYPE, sequences=sequences) as sides,
        local_dispatcher(checkpoint, DTYPE) as local,
    ):
        plain = Paged(sides.model, local, sequences=sequences)
        for worker in three:
            worker.service.direct = True
        arguments = checkpoint, three, sides.native.dispatcher, TABLES, done
        changes = threading.Thread(target=apply_tables, args=arguments)
        changes.start()
        while not done.is_set() or number < TABLES:
            chunk = {number % sequences: [number % 300, 7, 9]}
            native = sides.native.feed(chunk)
            assert torch.equal(native, plain.feed(chunk)[number % sequences]), f"step {number}"
            number += 1
        changes.join()
        stats = sides.native.dispatcher.stats.total()
        assert stats.layer_calls == number * LAYERS
        assert stats.stale_epoch_rejections > 3, "some calls were stale"
        assert sides.native.native_layers > number * LAYERS / 2, "most layers ran natively"
