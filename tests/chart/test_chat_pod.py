"""The program of `helm test`, as its pod runs it, against a gateway on a real socket."""

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from support.chart_objects import Chart, Object, containers, find

pytestmark = pytest.mark.processes

DONE = b"data: [DONE]\n\n"


def _frame(content: str, finish_reason: str | None = None) -> bytes:
    choice = {"index": 0, "delta": {"content": content}, "finish_reason": finish_reason}
    return b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n"


@contextmanager
def _gateway(*frames: bytes, failing_probes: int = 0) -> Iterator[str]:
    """Yields the URL of a gateway that fails so many readiness probes and then sends `frames` for each chat."""
    left = [failing_probes]

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            left[0] -= 1
            self._respond(503 if left[0] >= 0 else 200, b"")

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            assert body["stream"] is True
            self._respond(200, b"".join(frames))

        def _respond(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="module")
def pod(chart: Chart) -> Object:
    return containers(find(chart.render(), "Pod", "caracal-test")["spec"])[0]


def test_the_pod_of_a_passed_test_is_deleted_once_helm_has_read_its_log(chart: Chart) -> None:
    done = subprocess.run(
        [chart.helm, "version", "--template", "{{ .Version }}"], capture_output=True, text=True, check=True
    )
    version = tuple(int(part) for part in re.findall(r"\d+", done.stdout)[:3])
    policies = ["before-hook-creation"] + ["hook-succeeded"] * (version >= (4, 0, 5))
    pod = find(chart.render(), "Pod", "caracal-test")
    assert pod["metadata"]["annotations"]["helm.sh/hook-delete-policy"].split(",") == policies


def _run(pod: Object, gateway: str) -> subprocess.CompletedProcess[str]:
    assert pod["command"] == ["python", "-u", "-c"]
    env = {entry["name"]: entry["value"] for entry in pod["env"]}
    assert env["GATEWAY"] == "http://caracal-router:8000"
    command = [sys.executable, "-u", "-c", *pod["args"]]
    environment = {**os.environ, **env, "GATEWAY": gateway}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30, check=False)


def test_a_complete_stream_passes(pod: Object) -> None:
    with _gateway(_frame("Hel"), _frame("lo", "stop"), DONE) as gateway:
        done = _run(pod, gateway)
    assert done.returncode == 0, done.stderr
    assert "Hello" in done.stdout
    assert "finish_reason: stop" in done.stdout


def test_it_waits_until_the_gateway_is_ready(pod: Object) -> None:
    with _gateway(_frame("x", "length"), DONE, failing_probes=1) as gateway:
        done = _run(pod, gateway)
    assert done.returncode == 0, done.stderr
    assert "not ready yet" in done.stdout


def test_a_broken_stream_fails(pod: Object) -> None:
    with _gateway(_frame("Hel")) as gateway:
        done = _run(pod, gateway)
    assert done.returncode != 0
    assert "without a finish_reason" in done.stderr


def test_an_error_event_fails_with_its_message(pod: Object) -> None:
    with _gateway(b'data: {"error": {"message": "no worker"}}\n\n', DONE) as gateway:
        done = _run(pod, gateway)
    assert done.returncode != 0
    assert "no worker" in done.stderr
