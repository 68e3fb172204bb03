"""Spans of sequences and of the steps that they are in."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import grpc
import pytest
from caracal_proto import attention_pb2
from support.attention_service import NO_MODEL
from support.engine_driver import Driver, Received, limits
from support.fake_model import VOCAB, FakeModel
from support.otlp_receiver import Collector, traced_here
from support.otlp_receiver import Received as Span

from services.attention_worker.attempts import Attempts, Rejected
from services.attention_worker.engine.sequence import Ending
from services.attention_worker.grammars import GrammarCompiler

NO_GRAMMARS = GrammarCompiler(NO_MODEL, VOCAB, frozenset({2}))
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENTS = ["00f067aa0ba902b7", "00f067aa0ba902b8"]


@pytest.fixture
def collector() -> Iterator[Collector]:
    with traced_here() as (_, collector):
        yield collector


@pytest.fixture
def driver() -> Driver:
    return Driver(FakeModel(), sizes=limits(num_pages=16))


def request(parent: str, tokens: int, flags: str = "01", prompt: int = 5) -> attention_pb2.GenerateRequest:
    return attention_pb2.GenerateRequest(
        request_id="r",
        attempt=1,
        prompt_ids=range(1, prompt + 1),
        sampling=attention_pb2.Sampling(max_tokens=tokens),
        traceparent=f"00-{TRACE}-{parent}-{flags}" if parent else "",
    )


def begin(driver: Driver, *asked: attention_pb2.GenerateRequest) -> tuple[Attempts, list[Received]]:
    attempts, received = Attempts(driver.engine, VOCAB, NO_GRAMMARS), [Received() for _ in asked]
    for message, each in zip(asked, received, strict=True):
        driver.received[len(driver.received)] = each  # the engine counts its sequences
        each.key = attempts.begin(message, each)
    return attempts, received


def named(spans: list[Span], name: str) -> list[Span]:
    return sorted((span for span in spans if span.name == name), key=lambda span: span.began_ns)


def test_a_step_of_two_traced_sequences_belongs_to_one_and_is_linked_to_the_other(
    driver: Driver, collector: Collector
) -> None:
    begin(driver, request(PARENTS[0], 3), request("", 3), request(PARENTS[1], 3))
    while driver.engine.step():
        pass
    spans = collector.wait_for(lambda spans: len(named(spans, "sequence")) == 2, TRACE)
    first, second = (next(s for s in named(spans, "sequence") if s.parent_id == parent) for parent in PARENTS)
    steps = named(spans, "step")
    assert [step.attributes["caracal.step"] for step in steps] == [1, 2, 3]
    assert {(step.parent_id, *step.links) for step in steps} == {(first.span_id, second.span_id)}
    assert [step.attributes["caracal.sequences"] for step in steps] == [3, 3, 3]
    assert [step.attributes["caracal.decodes"] for step in steps] == [0, 3, 3]


def test_the_spans_of_a_long_answer_are_few(driver: Driver, collector: Collector) -> None:
    begin(driver, request(PARENTS[0], 100))
    while driver.engine.step():
        pass
    spans = collector.wait_for(lambda spans: named(spans, "sequence"), TRACE)
    (sequence,) = named(spans, "sequence")
    assert sequence.attributes["caracal.steps"] == 100
    assert [step.attributes["caracal.step"] for step in named(spans, "step")] == [1, 2, 3, 4, 8, 16, 32, 64]


def test_a_cancelled_sequence_ends_with_what_it_has(driver: Driver, collector: Collector) -> None:
    attempts, (received,) = begin(driver, request(PARENTS[0], 100))
    driver.engine.step()
    driver.engine.step()
    attempts.cancel(received.key)
    driver.engine.step()
    assert received.endings == [Ending("cancelled")]
    spans = collector.wait_for(lambda spans: named(spans, "sequence"), TRACE)
    (sequence,) = named(spans, "sequence")
    assert sequence.attributes["gen_ai.response.finish_reasons"] == ["cancelled"]
    assert (sequence.attributes["gen_ai.usage.output_tokens"], sequence.failed) == (2, False)
    assert {span.name for span in spans if span.parent_id == sequence.span_id} == {"queue", "prefill", "decode", "step"}


def test_a_sequence_that_never_ran_was_in_the_queue_only(driver: Driver, collector: Collector) -> None:
    begin(driver, request(PARENTS[0], 100))
    driver.engine.evict("draining")
    driver.engine.step()
    spans = collector.wait_for(lambda spans: named(spans, "sequence"), TRACE)
    (sequence,) = named(spans, "sequence")
    assert (sequence.failed, sequence.attributes["error.type"]) == (True, "unavailable")
    assert [span.name for span in spans if span.parent_id == sequence.span_id] == ["queue"]


def test_a_rejected_attempt_has_a_failed_span(driver: Driver, collector: Collector) -> None:
    driver.engine.stop()
    with pytest.raises(Rejected) as rejected:
        begin(driver, request(PARENTS[0], 100))
    assert rejected.value.code is grpc.StatusCode.UNAVAILABLE
    (sequence,) = named(collector.wait_for(lambda spans: named(spans, "sequence"), TRACE), "sequence")
    assert (sequence.failed, sequence.attributes["error.type"]) == (True, "unavailable")


def test_an_attempt_that_is_cancelled_while_its_grammar_is_compiled_ends_its_span(
    driver: Driver, collector: Collector
) -> None:
    async def cancel_at_once() -> None:
        message = request(PARENTS[0], 100)
        message.sampling.grammar = "{}"
        attempts, (received,) = begin(driver, message)
        attempts.cancel(received.key)
        while not named(collector.of_trace(TRACE), "sequence"):  # noqa: ASYNC110 - of another thread
            await asyncio.sleep(0.01)

    asyncio.run(asyncio.wait_for(cancel_at_once(), 20))
    (sequence,) = named(collector.spans, "sequence")
    assert (sequence.attributes["gen_ai.response.finish_reasons"], sequence.failed) == (["cancelled"], False)


@pytest.mark.parametrize(
    "context", ["", f"00-{TRACE}-{PARENTS[0]}-00", "00-nonsense-01", f"00-{'0' * 32}-{PARENTS[0]}-01"]
)
def test_without_a_sampled_context_there_is_no_span(driver: Driver, collector: Collector, context: str) -> None:
    message = request("", 3)
    message.traceparent = context
    begin(driver, message, request(PARENTS[0], 2))
    while driver.engine.step():
        pass
    collector.wait_for(lambda spans: named(spans, "sequence"), TRACE)
    assert len(named(collector.spans, "sequence")) == 1
    assert [span.links for span in named(collector.spans, "step")] == [[], []]


def test_tracing_changes_no_bit(driver: Driver, collector: Collector) -> None:
    _, (traced,) = begin(driver, request(PARENTS[0], 20))
    while driver.engine.step():
        pass
    plain = Driver(FakeModel(), sizes=limits(num_pages=16))
    _, (untraced,) = begin(plain, request("", 20))
    while plain.engine.step():
        pass
    assert traced.tokens == untraced.tokens
    assert len(traced.tokens) == 20
