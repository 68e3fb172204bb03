"""The router as a process: its imports, its settings, its exit."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import httpx2
import pytest
from support.tiny_checkpoint import PLAIN, make_checkpoint

from services.process.settings import InvalidSetting
from services.router.settings import RouterSettings

pytestmark = pytest.mark.processes

REPO = Path(__file__).resolve().parents[2]
PATHS = os.pathsep.join(str(REPO / part) for part in (".", "kernels", "proto"))


def run(*command: str, **env: str) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("CARACAL_")} | {"PYTHONPATH": PATHS, **env}
    return subprocess.run(
        [sys.executable, *command], env=environment, cwd="/", capture_output=True, text=True, timeout=60, check=False
    )


def test_the_gateway_imports_neither_torch_nor_transformers() -> None:
    heavy = "sorted({'torch', 'transformers', 'safetensors', 'openai'} & set(sys.modules))"
    done = run("-c", f"import sys, services.router.__main__; print({heavy})")
    assert done.stdout == "[]\n", done.stderr


@pytest.mark.parametrize(
    ("env", "words"),
    [
        ({}, "CARACAL_MODEL"),
        ({"CARACAL_MODEL": "/nowhere/at/all"}, "CARACAL_MODEL"),
        ({"CARACAL_MODEL": "/", "CARACAL_PORT": "http"}, "CARACAL_PORT"),
        ({"CARACAL_MODEL": "/", "CARACAL_PORT": "65536"}, "CARACAL_PORT"),
        ({"CARACAL_MODEL": "/", "CARACAL_GRPC_PORT": "-1"}, "CARACAL_GRPC_PORT"),
        ({"CARACAL_MODEL": "/", "CARACAL_PROGRESS_TIMEOUT_S": "nan"}, "CARACAL_PROGRESS_TIMEOUT_S"),
        ({"CARACAL_MODEL": "/", "CARACAL_DRAIN_TIMEOUT_S": "0"}, "CARACAL_DRAIN_TIMEOUT_S"),
        ({"CARACAL_MODEL": "/", "CARACAL_COLD_START_S": "601"}, "CARACAL_PROGRESS_TIMEOUT_S"),
        ({"CARACAL_MODEL": "/"}, "config.json"),
    ],
    ids=range(9),
)
def test_a_bad_setting_ends_it_with_one_line(env: dict[str, str], words: str) -> None:
    done = run("-m", "services.router", **env)
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_settings_from_the_environment(tmp_path: Path) -> None:
    settings = RouterSettings.from_env({"CARACAL_MODEL": str(tmp_path), "CARACAL_PORT": "0", "CARACAL_HOST": ""})
    assert (settings.port, settings.host, settings.served_name) == (0, "127.0.0.1", tmp_path.name)
    named = RouterSettings.from_env({"CARACAL_MODEL": str(tmp_path), "CARACAL_MODEL_NAME": "cat"})
    assert named.served_name == "cat"
    with pytest.raises(InvalidSetting, match="CARACAL_DRAIN_TIMEOUT_S"):
        RouterSettings.from_env({"CARACAL_MODEL": str(tmp_path), "CARACAL_DRAIN_TIMEOUT_S": "soon"})


def test_starts_without_redis_and_exits_on_sigterm(tmp_path: Path) -> None:
    env = {**os.environ, "PYTHONPATH": PATHS, "CARACAL_MODEL": str(make_checkpoint(tmp_path / "model", PLAIN))}
    env |= {"CARACAL_PORT": "0", "CARACAL_GRPC_PORT": "0", "CARACAL_ADMIN_PORT": "0"}
    env |= {"CARACAL_REDIS_URL": "redis://127.0.0.1:1/0"}
    process = subprocess.Popen([sys.executable, "-m", "services.router"], env=env, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        listening = next((json.loads(line) for line in process.stderr if "router listens" in line), None)
        assert listening is not None, "it did not start"
        assert httpx2.get(f"http://{listening['http']}/health").json() == {"status": "ok"}
        ready = httpx2.get(f"http://{listening['http']}/ready")
        assert (ready.status_code, ready.json()["reason"]) == (503, "no attention worker")
        overview = httpx2.get(f"http://{listening['admin']}/cluster")
        assert (overview.status_code, overview.json()["error"]["code"]) == (503, "redis_unavailable")
        assert "Redis does not answer: ConnectionError" in overview.json()["error"]["message"]
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()
