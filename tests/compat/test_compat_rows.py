"""A few cells of docs/compatibility.md, with the clients at hand, against a cluster: what CI runs of `make compat`."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest
from compat.clients import anthropic_python, openai_python
from compat.declared import CLIENTS
from compat.environments import NotInstalled, command
from compat.features import Servers
from compat.run import serving

pytestmark = pytest.mark.processes
NODE = next(client for client in CLIENTS if client.is_node)


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    with serving(tmp_path_factory.mktemp("models")) as running:
        yield running


@pytest.mark.parametrize("feature", ["streaming", "tools", "structured_output", "reasoning"])
def test_openai(servers: Servers, feature: str) -> None:
    getattr(openai_python, feature)(servers)


@pytest.mark.parametrize("feature", ["streaming", "tools", "reasoning"])
def test_anthropic(servers: Servers, feature: str) -> None:
    getattr(anthropic_python, feature)(servers)


def test_a_feature_that_fails_is_an_outcome(servers: Servers, tmp_path: Path) -> None:
    """The probe names what failed, and goes on to the client's next feature."""
    (tmp_path / "client.py").write_text(
        "def chat(servers):\n    assert servers.model == 'another'\n\n"
        "def streaming(servers):\n    raise ValueError('no stream\\nat all')\n\ndef tools(servers):\n    pass\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "compat.probe", "client", json.dumps(asdict(servers))],
        env={"PYTHONPATH": f"{Path(__file__).parents[1]}:{tmp_path}"}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert [json.loads(line) for line in done.stdout.splitlines()] == [
        ["chat", "AssertionError: assert servers.model == 'another'"],
        ["streaming", "ValueError: no stream"],
        ["tools", ""],
    ]


def test_node(servers: Servers) -> None:
    if shutil.which("node") is None:
        pytest.skip("node is not installed (Debian's packages nodejs and npm)")
    try:
        words = command(NODE)
    except NotInstalled as error:
        pytest.skip(f"openai for Node is not installed: {error}")
    done = subprocess.run([*words, json.dumps(asdict(servers))], capture_output=True, text=True, timeout=120)
    assert dict.fromkeys(NODE.features(), "") == dict(map(json.loads, done.stdout.splitlines())), done.stderr
