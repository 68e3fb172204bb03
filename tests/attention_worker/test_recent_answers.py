"""What a worker keeps of answers that may be asked for again: tokens in order, of one answer, for a while."""

from __future__ import annotations

from typing import Any

import grpc
from caracal_proto import attention_pb2
from support.attention_service import pages_free, request, run, status, worker

from services.attention_worker.engine.sequence import Ending, TokenOut
from services.attention_worker.recent_answers import KEPT_S, MOST_ANSWERS, RecentAnswers

KEY = b"a key"


def out(*ids: int, first: int = 0) -> list[TokenOut]:
    return [TokenOut(first + index, id, 1000 + id, logprob=-0.5) for index, id in enumerate(ids)]


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def nobody(tokens: list[TokenOut], ending: Ending | None) -> None:
    """Receives nothing."""


def test_tokens_come_back_as_they_were() -> None:
    recent, got = RecentAnswers(), list[TokenOut]()
    emit = recent.follow(KEY, (), [], lambda tokens, ending: got.extend(tokens))
    emit(out(5, 6), None)
    emit([TokenOut(1, 9, 1, rank=2), *out(7, first=2)], None)  # with a score of the prompt
    assert len(got) == 4
    assert recent.find(KEY, (), 0) == out(5, 6, 7)
    assert recent.find(KEY, (5,), 0) == out(6, 7, first=1)
    assert recent.find(KEY, (5, 6, 7), 0) == []
    assert recent.find(KEY, (5, 8), 0) == [], "another answer"
    assert recent.find(b"another key", (), 0) == []


def test_of_tokens_from_another_worker_only_ids_are_known() -> None:
    recent = RecentAnswers()
    recent.follow(KEY, (5, 6), [], nobody)(out(7, first=2), None)
    assert recent.find(KEY, (), 1) == [], "the second has no log-probability"
    assert [token.id for token in recent.find(KEY, (), 2)] == [5, 6, 7]
    assert recent.find(KEY, (5, 6), 0) == out(7, first=2)


def test_the_next_attempt_goes_on_and_fences_the_one_before() -> None:
    recent = RecentAnswers()
    first = recent.follow(KEY, (), [], nobody)
    first(out(5, 6), None)
    found = recent.find(KEY, (), 0)
    second = recent.follow(KEY, (), found, nobody)
    first(out(9, first=2), Ending("cancelled"))
    second(out(7, first=2), None)
    assert recent.find(KEY, (), 0) == out(5, 6, 7)


def test_answers_are_kept_for_a_while_and_so_many_of_them() -> None:
    clock = Clock()
    recent = RecentAnswers(most_tokens=10, clock=clock)
    recent.follow(KEY, (), [], nobody)(out(*range(6)), Ending("cancelled"))
    clock.now = KEPT_S + 1
    recent.follow(b"b", (), [], nobody)(out(*range(6)), None)
    assert recent.find(KEY, (), 0) == []
    recent.follow(b"c", (), [], nobody)(out(*range(6)), None)
    recent.follow(b"d", (), [], nobody)
    assert [bool(recent.find(key, (), 0)) for key in (b"b", b"c")] == [False, True]
    for number in range(MOST_ANSWERS + 10):
        recent.follow(b"%d" % number, (), [], nobody)
    assert len(recent) <= MOST_ANSWERS + 1


def test_a_worker_goes_on_with_what_it_has_and_computes_the_rest() -> None:
    async def scenario() -> None:
        async with worker() as one:
            asked = request(max_tokens=60, logprobs=True)
            whole = [token async for event in one.stub.Generate(asked) for token in event.tokens]
            asked.resume_key = KEY
            call = one.stub.Generate(asked)
            begun: list[Any] = []
            async for event in call:
                begun += event.tokens
                if len(begun) > 10:
                    break
            call.cancel()
            await pages_free(one)
            before = one.engine.counters.generation_tokens
            again = [token async for event in one.stub.Generate(asked) for token in event.tokens]
            assert again == whole
            assert one.engine.counters.generation_tokens - before <= len(whole) - len(begun)
            before = one.engine.counters.generation_tokens
            last = [event async for event in one.stub.Generate(asked)]
            assert last[-1].finish_reason == "length"
            assert [token for event in last for token in event.tokens] == whole
            assert one.engine.counters.generation_tokens == before, "the end follows from the ids"

    run(scenario)


def test_a_worker_that_stands_still_hands_back_and_comes_back() -> None:
    async def scenario() -> None:
        async with worker() as one:
            call = one.stub.Generate(request(max_tokens=200, ignore_eos=True))
            await anext(aiter(call))
            await one.service.stand_still(True)
            assert await _status(call) == ("UNAVAILABLE", "the engine stands still")
            not_begun = "the engine stands still, nothing has begun"
            assert await _status(one.stub.Generate(request())) == ("UNAVAILABLE", not_begun)
            assert (await _described(one.stub))[0] == "UNAVAILABLE"
            await one.service.stand_still(False)
            await pages_free(one)
            assert [event async for event in one.stub.Generate(request())][-1].finish_reason == "length"
            assert (await _described(one.stub))[0] == "OK"

    run(scenario)


async def _status(call: Any) -> tuple[str, str]:
    """How a stream ends, by the name of its status."""
    code, details = await status(call)
    return code.name, details


async def _described(stub: Any) -> tuple[str, str]:
    try:
        await stub.Describe(attention_pb2.AttentionDescribeRequest())
    except grpc.aio.AioRpcError as error:
        return error.code().name, error.details() or ""
    return "OK", ""
