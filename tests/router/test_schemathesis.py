"""Schemathesis against a router over HTTP: what /openapi.json says of requests and answers is what happens."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from caracal_proto import attention_pb2
from support.fake_attention import FakeAttention, answers_with
from support.gateway_assets import EOS, write_assets
from support.gateway_harness import Harness

from services.local.redis_server import start_redis
from services.process.addresses import free_port
from services.process.children import end

pytestmark = pytest.mark.processes

CONFIG = Path(__file__).with_name("schemathesis.toml")
# It takes whatever messages there are, and has the variable that a request for reasoning sets.
TEMPLATE = """\
{%- for tool in tools or [] %}{{ tool.function | tojson }}{% endfor -%}
{%- for message in messages %}{{ message.role }}:{{ message.content }}{% endfor -%}
{%- if add_generation_prompt %}ASSISTANT:{% if enable_thinking %}<longcat_think>{% endif %}{% endif -%}
"""


TWO_TOKENS = answers_with([5, 6], eos=EOS)


async def answer(request: attention_pb2.GenerateRequest, context: Any) -> AsyncIterator[attention_pb2.GenerateEvent]:
    """Two tokens, or none where only the prompt is to be scored."""
    if request.sampling.prompt_only:
        yield attention_pb2.GenerateEvent(attempt=request.attempt, finish_reason="length")
        return
    async for event in TWO_TOKENS(request, context):
        yield event


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("schemathesis")
    assets = write_assets(folder / "tiny-cat", context=4096, template=TEMPLATE)
    port = free_port()
    redis = start_redis(port, folder)
    try:
        fake = FakeAttention(answer)
        with Harness(assets, fake, redis_url=f"redis://127.0.0.1:{port}/0") as harness:
            yield harness.admin_url
    finally:
        end([redis], 2)


def test_the_document_is_what_happens(url: str, tmp_path: Path) -> None:
    """The seed, the checks and the number of examples are in schemathesis.toml."""
    command = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(CONFIG), "run", f"{url}/openapi.json"]
    environment = os.environ | {"PYTHONPATH": str(CONFIG.parents[1]), "NO_COLOR": "1"}
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=280)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "23 selected / 23 total" in result.stdout
