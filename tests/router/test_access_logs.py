"""What a router's log says of API keys and prompts, and what it says of a keys file that it cannot use."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import httpx2
import pytest
from support.tiny_checkpoint import PLAIN, make_checkpoint

from services.router.access.keys import key_hash, new_key

pytestmark = pytest.mark.processes

REPO = Path(__file__).resolve().parents[2]
PATHS = os.pathsep.join(str(REPO / part) for part in (".", "kernels", "proto"))
ALICE, BOB = new_key(), new_key()


@pytest.fixture(scope="module")
def keys_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keys") / "keys.toml"
    path.write_text(
        "".join(f'[{name}]\nsha256 = "{key_hash(key)}"\n' for name, key in (("alice", ALICE), ("bob", BOB)))
    )
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("model") / "model", PLAIN)


def process(model: Path, keys: Path, log: Path) -> subprocess.Popen[bytes]:
    env = {**os.environ, "PYTHONPATH": PATHS, "CARACAL_MODEL": str(model), "CARACAL_PORT": "0"}
    env |= {"CARACAL_GRPC_PORT": "0", "CARACAL_ADMIN_PORT": "0", "CARACAL_REDIS_URL": "redis://127.0.0.1:1/0"}
    env |= {"CARACAL_API_KEYS_FILE": str(keys)}
    with log.open("wb") as sink:
        return subprocess.Popen([sys.executable, "-m", "services.router"], env=env, stderr=sink)


def test_logs_name_keys_and_never_show_them_or_prompts(model: Path, keys_file: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    started = process(model, keys_file, log)
    try:
        while not (lines := [line for line in log.read_text().splitlines() if "router listens" in line]):
            assert started.poll() is None
            time.sleep(0.05)
        url, admin = (f"http://{json.loads(lines[0])[port]}" for port in ("http", "admin"))
        body = {"messages": [{"role": "user", "content": "the prompt is nobody's business"}]}
        for key in (ALICE, "caracal-of-nobody"):
            httpx2.post(url + "/v1/chat/completions", json=body, headers={"authorization": f"Bearer {key}"})
        httpx2.get(admin + "/metrics", headers={"x-api-key": BOB})
        for path in ("/a%0a%7b%22event%22%3a%22forged%22%7d%1b[31m", "/%22%7d%0d%0a%7b%22event%22%3a%22forged%22%7d"):
            httpx2.get(url + path)
    finally:
        started.kill()
        started.wait()
    text = log.read_text()
    events = [json.loads(line) for line in text.splitlines()]  # no client has broken a line, or added one
    assert not any(event["event"] == "forged" for event in events)
    assert "\x1b" not in text
    assert [event["key"] for event in events if event["event"] == "request"] == ["alice", "bob"]
    assert {event["event"] for event in events} >= {
        "audit: API keys are read",
        "audit: requests without a valid API key",
        "audit: denied",
    }
    for secret in (ALICE, BOB, "caracal-of-nobody", "nobody's business"):
        assert secret not in text


def test_a_router_with_a_bad_file_does_not_start(model: Path, tmp_path: Path) -> None:
    (tmp_path / "keys.toml").write_text("[alice]\n")
    assert process(model, tmp_path / "keys.toml", tmp_path / "log").wait(60) == 2
    (line,) = (tmp_path / "log").read_text().splitlines()
    assert line.startswith("caracal: ")
    assert "alice: sha256 is missing" in line
