"""A router that shuts down: streams finish within the grace period or get an error, and no new request is taken."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from support.fake_attention import FakeAttention, answers_with
from support.gateway_assets import EOS
from support.gateway_harness import MODEL, Harness

HI: list[Any] = [{"role": "user", "content": "hi"}]


def begin(harness: Harness, *, stream: bool = True) -> tuple[threading.Thread, list[Any]]:
    """Starts a request on a thread; returns the thread and a list that gets the text or the error."""
    results: list[Any] = []

    def run() -> None:
        try:
            create = harness.client().chat.completions.create
            if stream:
                chunks = create(model=MODEL, messages=HI, stream=True)
                results.append("".join(chunk.choices[0].delta.content or "" for chunk in chunks))
            else:
                results.append(create(model=MODEL, messages=HI).choices[0].message.content)
        except openai.APIError as error:
            results.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    fake = harness.fakes[0]
    deadline = time.monotonic() + 10
    while not fake.running and time.monotonic() < deadline:
        time.sleep(0.005)
    assert fake.running
    time.sleep(0.1)
    return thread, results


def test_streams_finish_within_the_grace_period(assets_path: Path) -> None:
    fake = FakeAttention(answers_with([]))
    with Harness(assets_path, fake) as harness:
        fake.script = answers_with(harness.ids("hello world") * 5, eos=EOS, pause=0.02)
        thread, results = begin(harness)
        began = time.monotonic()
        harness.stop(20)
        assert time.monotonic() - began < 15, "it waits for the streams, not for the whole grace period"
        thread.join(10)
        assert results == ["hello world" * 5]
        with pytest.raises(httpx2.ConnectError):
            httpx2.get(harness.url + "/health")


@pytest.mark.parametrize("stream", [False, True])
def test_streams_beyond_the_grace_period_get_an_error(assets_path: Path, stream: bool) -> None:
    fake = FakeAttention(answers_with([70] * 400, pause=0.05))
    with Harness(assets_path, fake) as harness:
        thread, results = begin(harness, stream=stream)
        began = time.monotonic()
        harness.stop(0.3)
        thread.join(10)
        assert time.monotonic() - began < 4
        assert isinstance(results[0], openai.APIError)
        assert results[0].code == "shutting_down"
        assert fake.cancelled == 1
        failure = harness.metrics.registry.get_sample_value(
            "caracal:request_failure_total", {"model_name": MODEL, "code": "shutting_down"}
        )
        assert failure == 1
