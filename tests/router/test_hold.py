"""For some seconds after the last attention worker left, new requests wait for another one."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2 as httpx
import openai
import pytest
from support.fake_attention import FakeAttention, answers_with
from support.gateway_assets import EOS
from support.gateway_harness import MODEL, Harness


def _ready(harness: Harness) -> int:
    return httpx.get(harness.url + "/ready").status_code


def _replace(harness: Harness, *fakes: FakeAttention) -> None:
    """Drains the workers, so that they leave the pool at once, then lists `fakes`."""
    leaving = [fake.record(draining=True) for fake in harness.fakes]
    for workers in (leaving, [fake.record() for fake in fakes]):
        harness.directory.workers = workers
        harness.do(harness.serving.attention_workers.refresh())


def test_a_new_request_waits_for_the_next_worker(assets_path: Path) -> None:
    fake = FakeAttention(answers_with([70, 71], eos=EOS))
    with Harness(assets_path, fake, hold_s=20.0) as harness, ThreadPoolExecutor(1) as pool:
        _replace(harness)
        assert _ready(harness) == 200
        asked = pool.submit(harness.client().completions.create, model=MODEL, prompt=[5, 6])
        time.sleep(0.5)
        assert not asked.done()
        assert not fake.requests
        _replace(harness, fake)
        assert asked.result(10).choices[0].finish_reason == "stop"


def test_the_wait_is_limited(assets_path: Path) -> None:
    fake = FakeAttention(answers_with([70], eos=EOS))
    with Harness(assets_path, fake, hold_s=1.0) as harness:
        _replace(harness)
        began = time.monotonic()
        with pytest.raises(openai.InternalServerError, match="no attention worker") as caught:
            harness.client().completions.create(model=MODEL, prompt=[5, 6])
        assert caught.value.status_code == 503
        assert 0.5 < time.monotonic() - began < 10
        assert _ready(harness) == 503


def test_without_any_worker_before_the_error_comes_at_once(assets_path: Path) -> None:
    with Harness(assets_path, hold_s=20.0) as harness:
        assert _ready(harness) == 503
        with pytest.raises(openai.InternalServerError, match="no attention worker"):
            harness.client().completions.create(model=MODEL, prompt=[5, 6])
