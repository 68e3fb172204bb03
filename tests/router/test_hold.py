"""For some seconds after the last attention worker left, new requests wait for another one."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2 as httpx
import openai
import pytest
from support.cluster_harness import until
from support.fake_attention import FakeAttention, answers_with
from support.gateway_assets import EOS
from support.gateway_harness import MODEL, Harness

from services.router.requests.admission import AdmissionLimits


def _ready(harness: Harness) -> int:
    return httpx.get(harness.url + "/ready").status_code


def _waiting(harness: Harness) -> float:
    """Sequences that wait, as autoscalers read it."""
    page = httpx.get(harness.admin_url + "/metrics").text
    return sum(float(one.split()[-1]) for one in page.splitlines() if one.startswith("caracal:num_requests_waiting"))


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


def test_a_cold_start_is_waited_for_however_long_ago_the_last_worker_was(assets_path: Path) -> None:
    fake = FakeAttention(answers_with([70, 71], eos=EOS))
    limits = AdmissionLimits(queue_timeout_s=0.2)  # of who waits for a place while there are workers
    with Harness(assets_path, fake, cold_start_s=20.0, limits=limits) as harness, ThreadPoolExecutor(3) as pool:
        _replace(harness)
        answer = httpx.get(harness.url + "/ready")
        assert (answer.status_code, answer.json()) == (200, {"status": "cold", "reason": "no attention worker"})
        asked = [pool.submit(harness.client().completions.create, model=MODEL, prompt=[5, 6]) for _ in range(3)]
        until(lambda: _waiting(harness) == 3, "an autoscaler sees nothing of them", 10)
        time.sleep(0.5)
        assert not any(one.done() for one in asked)
        _replace(harness, fake)
        assert [one.result(10).choices[0].finish_reason for one in asked] == ["stop"] * 3
        assert httpx.get(harness.url + "/ready").json() == {"status": "ready"}


def test_the_wait_for_a_cold_start_is_limited_for_each_request(assets_path: Path) -> None:
    with Harness(assets_path, cold_start_s=0.5) as harness:
        for _ in range(2):
            with pytest.raises(openai.InternalServerError, match="no attention worker"):
                harness.client().completions.create(model=MODEL, prompt=[5, 6])
        assert _ready(harness) == 200, "further ones are taken"


def test_without_any_worker_before_the_error_comes_at_once(assets_path: Path) -> None:
    with Harness(assets_path, hold_s=20.0) as harness:
        assert _ready(harness) == 503
        with pytest.raises(openai.InternalServerError, match="no attention worker"):
            harness.client().completions.create(model=MODEL, prompt=[5, 6])
