"""Attempts say which worker may still have the pages of their sequence: the one that has handed it back."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest
from caracal_proto import attention_pb2
from support.fake_attention import FakeAttention, answers_with
from support.gateway_assets import EOS
from support.gateway_harness import MODEL, Harness

TEXT = "the cat sat on the mat, hello world; the cat sat on the mat"
Request = attention_pb2.GenerateRequest


class Failing:
    """Ends attempts after so many tokens each, in the order that they begin, with a status; the last one goes on."""

    def __init__(self, harness: Harness, *cuts: tuple[int, grpc.StatusCode]) -> None:
        self.began: list[tuple[FakeAttention, Request]] = []
        self._cuts = cuts
        for fake in harness.fakes:
            fake.script = partial(self._run, fake, answers_with(harness.ids(TEXT), eos=EOS))

    async def _run(
        self, fake: FakeAttention, plain: Any, request: Request, context: Any
    ) -> AsyncIterator[attention_pb2.GenerateEvent]:
        self.began.append((fake, request))
        number, sent = len(self.began) - 1, 0
        async for event in plain(request, context):
            if number < len(self._cuts) and sent >= self._cuts[number][0]:
                await context.abort(self._cuts[number][1], "draining")
                return
            sent += len(event.tokens)
            yield event


@pytest.fixture
def harness(assets_path: Path) -> Iterator[Harness]:
    fakes = [FakeAttention(answers_with([]), worker_id=name) for name in ("attention-0", "attention-1")]
    with Harness(assets_path, *fakes, progress_s=20, lost_s=0.3) as harness:
        yield harness


def ask(harness: Harness) -> None:
    answer = harness.client().chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "hi"}])
    assert answer.choices[0].message.content == TEXT


def source_of(harness: Harness, request: Request) -> FakeAttention | None:
    at = request.pages_at
    found = next((fake for fake in harness.fakes if at.boot_id == f"{fake.worker_id}-boot"), None)
    assert at.address == (f"127.0.0.1:{found.port}" if found else "")
    return found


def test_the_next_attempt_says_where_the_pages_are(harness: Harness) -> None:
    gone = grpc.StatusCode.UNAVAILABLE
    failing = Failing(harness, (3, gone), (0, gone), (3, gone))
    ask(harness)
    (first, one), (second, two), (third, three), (fourth, four) = failing.began
    assert source_of(harness, one) is None
    assert second is not first
    assert source_of(harness, two) is first
    # The second attempt gave no token: the pages are where the first one ran.
    assert source_of(harness, three) is (None if third is first else first)
    assert source_of(harness, four) is (None if fourth is third else third)


@pytest.mark.parametrize("code", [grpc.StatusCode.INTERNAL, grpc.StatusCode.RESOURCE_EXHAUSTED])
def test_a_worker_that_failed_is_not_asked_for_pages(harness: Harness, code: grpc.StatusCode) -> None:
    failing = Failing(harness, (3, code))
    ask(harness)
    assert [source_of(harness, request) for _, request in failing.began] == [None, None]
    assert failing.began[0][0] is not failing.began[1][0]
