"""A router that leaves: streams that can finish do, the others are told, nothing new is taken."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from support.fake_attention import FakeAttention, says
from support.gateway_assets import EOS
from support.gateway_harness import MODEL, Harness

HI: list[Any] = [{"role": "user", "content": "hi"}]


def begin(harness: Harness, *, stream: bool = True) -> tuple[threading.Thread, list[Any]]:
    """A request under way on its own thread; the list gets its text, and its error if there is one."""
    told: list[Any] = []

    def run() -> None:
        try:
            answer = harness.client().chat.completions.create(model=MODEL, messages=HI, stream=stream)
            if stream:
                told.append("".join(chunk.choices[0].delta.content or "" for chunk in answer))
            else:
                told.append(answer.choices[0].message.content)
        except openai.APIError as error:
            told.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    fake = harness.fakes[0]
    deadline = time.monotonic() + 10
    while not fake.running and time.monotonic() < deadline:
        time.sleep(0.005)
    assert fake.running
    time.sleep(0.1)
    return thread, told


def test_streams_finish_within_the_grace(assets_path: Path) -> None:
    fake = FakeAttention(says([]))
    with Harness(assets_path, fake) as harness:
        fake.script = says(harness.ids("hello world") * 5, eos=EOS, pause=0.02)
        thread, told = begin(harness)
        began = time.monotonic()
        harness.stop(20)
        assert time.monotonic() - began < 15, "it waits for the streams, not for the grace"
        thread.join(10)
        assert told == ["hello world" * 5]
        with pytest.raises(httpx2.ConnectError):
            httpx2.get(harness.url + "/health")


@pytest.mark.parametrize("stream", [False, True])
def test_what_does_not_finish_is_told(assets_path: Path, stream: bool) -> None:
    fake = FakeAttention(says([70] * 400, pause=0.05))
    with Harness(assets_path, fake) as harness:
        thread, told = begin(harness, stream=stream)
        began = time.monotonic()
        harness.stop(0.3)
        thread.join(10)
        assert time.monotonic() - began < 4
        assert isinstance(told[0], openai.APIError)
        assert told[0].code == "shutting_down"
        assert fake.cancelled == 1
        failure = harness.metrics.registry.get_sample_value(
            "caracal:request_failure_total", {"model_name": MODEL, "code": "shutting_down"}
        )
        assert failure == 1
