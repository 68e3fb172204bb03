"""`caracal up` with models whose text files differ: base models, wrong tokenizers, generation_config.json."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from support.tiny_checkpoint import PLAIN, make_checkpoint

pytestmark = pytest.mark.processes

REPO = Path(__file__).resolve().parents[2]
COMMAND = [sys.executable, "-m", "services.cli.app"]
GIVEN = {"eos_token_id": [2, 3], "temperature": 0.25}


@pytest.fixture
def user(tmp_path: Path) -> dict[str, str]:
    """The environment of a user with an empty home directory."""
    (tmp_path / "tmp").mkdir()
    path = os.pathsep.join(str(REPO / folder) for folder in ("", "kernels", "proto"))
    return {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "TMPDIR": str(tmp_path / "tmp"), "PYTHONPATH": path}


@contextmanager
def up(user: dict[str, str], *arguments: str) -> Iterator[str]:
    """Yields what a cluster prints until it serves."""
    process = subprocess.Popen(
        [*COMMAND, "up", "--port", "0", *arguments], env=user, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout
    try:
        output = ""
        for line in process.stdout:
            output += line
            if "Ctrl-C stops everything" in line:
                break
        else:
            raise AssertionError(f"it ended: {output}\n{process.stderr.read() if process.stderr else ''}")
        yield output
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.communicate()


def card(output: str) -> dict[str, Any]:
    found = re.search(r"serves at (\S+)", output)
    assert found
    shown = httpx2.get(f"{found[1]}/v1/models").json()["data"][0]["generation_config"]
    assert isinstance(shown, dict)
    return shown


def test_a_base_model_continues_text(user: dict[str, str], tmp_path: Path) -> None:
    model = make_checkpoint(tmp_path / "base")
    (model / "chat_template.jinja").unlink()
    (model / "generation_config.json").write_text(json.dumps(GIVEN))
    with up(user, "--model", str(model)) as output:
        assert re.search(r"> What is 12 \+ 30\?\n.+\n", output), "no first answer"
        assert "The model has no chat template: it continues text" in output
        curl = re.search(r"  (curl .*)", output)
        assert curl
        assert "/v1/completions" in curl[1]
        answer = subprocess.run(curl[1], shell=True, capture_output=True, text=True, timeout=60)
        assert '"text":' in answer.stdout
        said = subprocess.run([*COMMAND, "generate", "the cat"], env=user, capture_output=True, text=True, timeout=60)
        assert said.returncode == 0, said.stderr
        assert said.stdout.strip()
        assert card(output) == {**GIVEN, "not_applied": []}


def test_generation_config_none_leaves_the_ends_alone(user: dict[str, str], tmp_path: Path) -> None:
    model = make_checkpoint(tmp_path / "m")
    (model / "generation_config.json").write_text(json.dumps(GIVEN))
    with up(user, "--model", str(model), "--generation-config", "none") as output:
        assert card(output) == {"eos_token_id": [2, 3], "not_applied": []}


def test_a_tokenizer_larger_than_the_embedding_is_one_line(user: dict[str, str], tmp_path: Path) -> None:
    model = make_checkpoint(tmp_path / "m")
    larger = make_checkpoint(tmp_path / "larger", PLAIN | {"vocab_size": 400})
    (model / "tokenizer.json").write_text((larger / "tokenizer.json").read_text())
    command = [*COMMAND, "up", "--port", "0", "--model", str(model)]
    done = subprocess.run(command, env=user, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert "tokenizer.json: it has token ids up to 399, but vocab_size in config.json is 320" in last
