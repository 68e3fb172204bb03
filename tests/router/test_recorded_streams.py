"""Every generation of the gateway is recorded once, whatever its client or its workers do."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import openai
import pytest
from caracal_proto import attention_pb2
from support.fake_attention import FakeAttention, Script, answers_with
from support.gateway_assets import EOS
from support.gateway_harness import MODEL, Harness

from services.cli.verify.logs import read
from services.router.recording.lines import Recorded

TEXT = "the cat sat on the mat, naïve hello world; the cat sat on the mat"
HI: list[Any] = [{"role": "user", "content": "hi"}]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "record.jsonl"


@pytest.fixture
def harness(assets_path: Path, log: Path) -> Iterator[Harness]:
    fakes = [FakeAttention(answers_with([]), worker_id=name) for name in ("attention-0", "attention-1")]
    with Harness(assets_path, *fakes, record=log, lost_s=0.3) as harness:
        for fake in fakes:
            fake.script = answers_with(harness.ids(TEXT), eos=EOS, pause=0.002)
        yield harness


def recorded(harness: Harness, log: Path, count: int) -> list[Recorded]:
    """The record, once it has so many requests."""
    deadline = time.monotonic() + 20
    while harness.record_metrics.written._value.get() < count:
        assert time.monotonic() < deadline, "not written"
        time.sleep(0.005)
    found = [entry.recorded for entry in read([log])]
    assert len(found) == count
    return found


def ask(harness: Harness, **options: Any) -> Any:
    return harness.client().chat.completions.create(model=MODEL, messages=HI, **options)


def test_an_answer_with_everything_that_changes_it(harness: Harness, log: Path) -> None:
    extra = {"top_k": 7, "stop_token_ids": [9], "min_tokens": 2, "allowed_token_ids": list(range(300))}
    ask(harness, seed=11, temperature=0.5, logit_bias={"5": -2}, logprobs=True, top_logprobs=2, extra_body=extra)
    (found,) = recorded(harness, log, 1)
    sent = harness.fakes[0].requests[-1]
    assert found.sampling == sent.sampling
    assert (found.prompt_ids, found.numerics_class, found.attempts) == (list(sent.prompt_ids), "caracal-fake", 1)
    assert list(found.ids) == [*harness.ids(TEXT), EOS]
    assert found.logprobs is not None
    assert [len(one.top) for one in found.logprobs] == [2] * len(found.ids)
    assert (found.ending, found.finish_reason, found.stop_id) == ("stop", "stop", EOS)


def test_each_choice_of_a_stream_is_recorded(harness: Harness, log: Path) -> None:
    for _ in ask(harness, n=3, stream=True, max_tokens=4):
        pass
    found = recorded(harness, log, 3)
    assert len({one.request_id for one in found}) == len({one.sampling.seed for one in found}) == 3
    assert [(len(one.ids), one.ending, one.finish_reason) for one in found] == [(4, "length", "length")] * 3


def test_a_stop_string_ends_an_answer_that_its_worker_goes_on_with(harness: Harness, log: Path) -> None:
    ask(harness, stop=["mat"])
    (found,) = recorded(harness, log, 1)
    assert (found.stop, found.ending, found.finish_reason) == (("mat",), "stop", "")
    assert found.ids == harness.ids(TEXT)[: len(found.ids)]


def test_a_client_that_leaves(harness: Harness, log: Path) -> None:
    with ask(harness, stream=True) as chunks:
        next(iter(chunks))
    (found,) = recorded(harness, log, 1)
    assert (found.ending, found.finish_reason) == ("cancel", "")


async def _abort(code: grpc.StatusCode, context: Any) -> None:
    await context.abort(code, "no")


def first_tokens(script: Script, count: int, then: Callable[[Any], Any]) -> Script:
    """The first tokens of each attempt, then a failure."""

    async def cut(request: attention_pb2.GenerateRequest, context: Any) -> Any:
        sent = 0
        async for event in script(request, context):
            if sent >= count:
                await then(context)
                return
            yield event
            sent += len(event.tokens)

    return cut


def test_an_answer_that_went_on_at_another_worker_is_one_answer(harness: Harness, log: Path) -> None:
    failing = harness.fakes[0]
    failing.script = first_tokens(failing.script, 5, partial(_abort, grpc.StatusCode.UNAVAILABLE))
    ask(harness)
    (found,) = recorded(harness, log, 1)
    assert found.attempts > 1
    assert list(found.ids) == [*harness.ids(TEXT), EOS]
    assert found.ending == found.finish_reason == "stop"


def test_an_answer_that_fails_is_recorded_as_far_as_it_came(harness: Harness, log: Path) -> None:
    for fake in harness.fakes:
        refuse = partial(_abort, grpc.StatusCode.INVALID_ARGUMENT)
        fake.script = first_tokens(fake.script, 3, refuse)
    with pytest.raises(openai.APIError):
        ask(harness)
    (found,) = recorded(harness, log, 1)
    assert (found.ending, found.error, found.finish_reason) == ("error", "invalid_value", "")
    assert found.ids == harness.ids(TEXT)[:3]


def test_prompt_scores_are_recorded(harness: Harness, log: Path) -> None:
    fake = harness.fakes[0]
    inner = fake.script

    async def scoring(request: attention_pb2.GenerateRequest, context: Any) -> Any:
        event = attention_pb2.GenerateEvent(attempt=request.attempt)
        for place in range(1, len(request.prompt_ids)):
            event.prompt.add(index=place, id=request.prompt_ids[place], logprob=-place / 8, rank=place)
        yield event
        async for one in inner(request, context):
            yield one

    for fake in harness.fakes:
        fake.script = scoring
    harness.client().completions.create(
        model=MODEL, prompt="the cat sat", max_tokens=2, extra_body={"prompt_logprobs": 0}
    )
    (found,) = recorded(harness, log, 1)
    assert found.prompt_logprobs is not None
    assert [one.rank for one in found.prompt_logprobs] == list(range(1, len(found.prompt_ids)))
