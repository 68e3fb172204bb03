"""Whatever a body or a template asks for, the router's loop goes on, and what takes too much ends by itself."""

from __future__ import annotations

import asyncio
import json
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest
from prometheus_client import CollectorRegistry
from support.fake_attention import FakeAttention, answers_with
from support.gateway_assets import EOS
from support.gateway_harness import MODEL, Harness, SharedTexts
from support.raw_http import exchange, post

from services.process.loop_lag import LoopLag
from services.router.requests.text_process import TextProcesses

LATE = "0.5"  # seconds: a bound of the metric of the loop's lag, generous for a machine that others use
TEXT = "the cat sat on the mat " * 180_000  # 4 MB


@pytest.fixture(scope="module")
def watched(assets_path: Path) -> Iterator[tuple[Harness, CollectorRegistry]]:
    registry = CollectorRegistry()
    lag = LoopLag(registry)
    with Harness(assets_path, FakeAttention(answers_with([5], eos=EOS))) as harness:
        watching = asyncio.run_coroutine_threadsafe(lag.watch(), harness._loop)
        yield harness, registry
        watching.cancel()


def late(registry: CollectorRegistry, than: str = LATE) -> float:
    """How often the loop has been later than so many seconds."""
    name = "caracal_event_loop_lag_seconds"
    # One look at the metric: the loop goes on meanwhile, and two looks may lie around an observation.
    (metric,) = (one for one in registry.collect() if one.name == name)
    found = {(one.name, one.labels.get("le")): one.value for one in metric.samples}
    return found[f"{name}_count", None] - found[f"{name}_bucket", than]


def tool(properties: int) -> dict[str, Any]:
    fields = {f"p{number}": {"type": "string", "description": "d" * 300} for number in range(properties)}
    function = {"name": "f", "parameters": {"type": "object", "properties": fields}}
    return {"type": "function", "function": function}


def messages(count: int) -> list[dict[str, str]]:
    return [{"role": "user", "content": "x" * 20}] * count


@pytest.mark.parametrize(
    ("path", "body", "times"),
    [
        ("/tokenize", {"prompt": TEXT}, 4),
        ("/tokenize", {"prompt": TEXT, "return_token_strs": True}, 1),
        ("/tokenize", {"messages": [{"role": "user", "content": TEXT}]}, 1),
        ("/v1/chat/completions", {"messages": messages(60_000)}, 1),
        ("/v1/chat/completions", {"messages": messages(4096)}, 4),
        ("/v1/messages", {"model": MODEL, "max_tokens": 3, "messages": messages(4096)}, 2),
        ("/v1/responses", {"input": messages(4096)}, 2),
        ("/v1/completions", {"prompt": [5] * 2_000_000}, 1),
        ("/v1/completions", {"prompt": [[5] * 2000] * 128}, 4),
        ("/v1/completions", {"prompt": ["x" * 4000] * 128}, 1),
        ("/v1/chat/completions", {"messages": messages(1), "tools": [tool(9000)]}, 2),
        ("/v1/chat/completions", {"messages": messages(1), "tools": [tool(9000)], "tool_choice": "required"}, 1),
        ("/detokenize", {"tokens": [5] * (1 << 18)}, 2),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_loop_is_not_late_beside_large_bodies(
    watched: tuple[Harness, CollectorRegistry], path: str, body: dict[str, Any], times: int
) -> None:
    harness, registry = watched
    data = json.dumps(body, separators=(",", ":")).encode()[: 4 << 20]

    before = late(registry)
    with ThreadPoolExecutor(times) as pool:
        headers = {"content-type": "application/json"}
        asked = [
            pool.submit(httpx2.post, harness.url + path, content=data, headers=headers, timeout=60)
            for _ in range(times)
        ]
        statuses = {one.result().status_code for one in asked}
    assert statuses <= {200, 400}
    assert late(registry) == before


def test_the_loop_is_not_late_beside_a_body_of_tiny_chunks(watched: tuple[Harness, CollectorRegistry]) -> None:
    harness, registry = watched
    body = json.dumps({"model": MODEL, "prompt": "a", "user": "u" * 200_000}).encode()
    before = late(registry, "0.25")
    assert exchange(harness, post("/v1/completions", body, each=1)).status == 200
    assert late(registry, "0.25") == before


TOO_COMPLEX, REJECTED = "prompt_too_complex", "invalid_value"  # by the process's limits, by the sandbox's
TEMPLATES = {
    "loops": "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "numbers": "{% set x = messages | length + 8 %}{{ x ** (x ** x) }}",
    "memory": "{% set ns = namespace(x='a' * 1000) %}{% for i in range(40) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_that_does_not_end_is_ended(assets_path: Path, tmp_path: Path, name: str) -> None:
    model = tmp_path / MODEL
    shutil.copytree(assets_path, model)
    config = json.loads((model / "tokenizer_config.json").read_text())
    (model / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": TEMPLATES[name]}))
    (model / "chat_template.jinja").unlink(missing_ok=True)
    code = REJECTED if name == "numbers" else TOO_COMPLEX
    with Harness(model, FakeAttention(answers_with([5], eos=EOS))) as harness, ThreadPoolExecutor(1) as pool:
        asked = pool.submit(
            httpx2.post, harness.url + "/v1/chat/completions", json={"messages": messages(1)}, timeout=60
        )
        while not asked.done():
            began = time.monotonic()
            assert httpx2.get(harness.url + "/health", timeout=10).status_code == 200
            assert time.monotonic() - began < 2
        assert asked.result().status_code == 400
        assert asked.result().json()["error"]["code"] == code
        again = httpx2.post(harness.url + "/v1/completions", json={"prompt": "hi"}, timeout=60)
        assert again.status_code == 200
        assert isinstance(harness.serving.texts, SharedTexts)
        TextProcesses.close(harness.serving.texts)


def test_short_chats_do_not_wait_for_long_texts(watched: tuple[Harness, CollectorRegistry]) -> None:
    harness, _ = watched
    with ThreadPoolExecutor(2) as pool:
        long = [pool.submit(httpx2.post, harness.url + "/tokenize", json={"prompt": TEXT}, timeout=60) for _ in "12"]
        time.sleep(0.2)
        short = httpx2.post(harness.url + "/v1/chat/completions", json={"messages": messages(1)}, timeout=60)
        assert short.status_code == 200
        assert not all(one.done() for one in long)
        assert {one.result().status_code for one in long} == {200}
