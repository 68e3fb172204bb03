"""Spans of a layer's dispatch, and of layers that native code runs."""

from __future__ import annotations

import pytest
import torch
from support.expert_workers import Worker, connecting, gates, open_dispatcher, place, random_batch, run
from support.native_layers import both_sides, steps
from support.otlp_receiver import Received, traced_here
from support.wire_faults import hang_up, inject

from services.attention_worker.model import native_stack
from services.checkpoint.reader import Checkpoint
from services.router.dispatch.errors import ExpertsUnavailable

DTYPE = torch.bfloat16


def named(spans: list[Received], name: str) -> list[Received]:
    return sorted((span for span in spans if span.name == name), key=lambda span: span.began_ns)


def test_a_retry_is_an_event_of_its_layer_and_its_calls_are_children(checkpoint: Checkpoint, two: list[Worker]) -> None:
    inject(two[0], hang_up)
    connect = connecting("grpc", checkpoint, DTYPE)
    with (
        traced_here() as (otel, collector),
        open_dispatcher(checkpoint, connect, call_timeout_s=0.5) as dispatcher,
    ):
        dispatcher.apply(place(1, checkpoint, [w.endpoint for w in two], lambda layer, expert: [0, 1]))
        step = otel.start("step", {})
        with otel.use(step):
            run(dispatcher, 0, gates(checkpoint)[0], random_batch(0, checkpoint.config.hidden_size, DTYPE, tokens=12))
        run(dispatcher, 0, gates(checkpoint)[0], random_batch(1, checkpoint.config.hidden_size, DTYPE, tokens=12))
        step.end()
        spans = collector.wait_for(lambda spans: named(spans, "step") and named(spans, "dispatch"))
    (dispatch,) = named(spans, "dispatch")
    assert dispatch.parent_id == named(spans, "step")[0].span_id
    assert dispatch.events == ["wait", "retry"]
    assert (dispatch.failed, dispatch.attributes["caracal.messages"]) == (False, 2)
    calls = named(collector.spans, "expert call")
    assert {call.parent_id for call in calls} == {dispatch.span_id}, "the second batch had no span"
    assert len(calls) >= 2


def test_a_layer_without_an_answer_fails_and_says_why(checkpoint: Checkpoint, two: list[Worker]) -> None:
    for worker in two:
        inject(worker, hang_up)
    connect = connecting("grpc", checkpoint, DTYPE)
    with (
        traced_here() as (otel, collector),
        open_dispatcher(checkpoint, connect, call_timeout_s=0.2, expert_wait_s=0.4) as dispatcher,
    ):
        dispatcher.apply(place(1, checkpoint, [w.endpoint for w in two], lambda layer, expert: [0, 1]))
        with otel.use(otel.start("step", {})), pytest.raises(ExpertsUnavailable):
            run(dispatcher, 0, gates(checkpoint)[0], random_batch(0, checkpoint.config.hidden_size, DTYPE, tokens=12))
        (dispatch,) = named(collector.wait_for(lambda spans: named(spans, "dispatch")), "dispatch")
    assert (dispatch.failed, dispatch.attributes["error.type"]) == (True, "ExpertsUnavailable")


@pytest.mark.compiled
@pytest.mark.skipif(bool(native_stack.unavailable()), reason="layers cannot run natively here")
def test_native_layers_are_one_span_with_the_waits_of_each(checkpoint: Checkpoint, two: list[Worker]) -> None:
    layers = checkpoint.config.num_layers
    (chunks,) = steps(checkpoint.config.vocab_size, 3, 1)
    with traced_here() as (otel, collector), both_sides(checkpoint, DTYPE) as sides:
        for worker in two:
            worker.service.direct = True
        sides.apply(place(1, checkpoint, [w.endpoint for w in two], lambda layer, expert: [expert % 2]))
        step = otel.start("step", {})
        with otel.use(step):
            traced = sides.native.feed(chunks)
        assert torch.equal(traced, sides.python.feed(chunks))
        step.end()
        spans = collector.wait_for(lambda spans: named(spans, "step"))
    (native,) = named(spans, "native layers")
    assert native.attributes["caracal.layer"] == 0
    waits = native.attributes["caracal.exposed_seconds"]
    round_trips = native.attributes["caracal.round_trip_seconds"]
    assert len(waits) == len(round_trips) == layers
    assert 0 < sum(waits) <= sum(round_trips)
    assert {span.name for span in spans} == {"step", "native layers"}
