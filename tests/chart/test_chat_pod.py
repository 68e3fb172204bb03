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
def _gateway(*frames: bytes, failing_probes: int = 0, key: str = "") -> Iterator[str]:
    """Yields the URL of a gateway that fails so many readiness probes and then sends `frames` for each chat, with `key`
    to whoever has it."""
    left = [failing_probes]

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            left[0] -= 1
            self._respond(503 if left[0] >= 0 else 200, b"")

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            assert body["stream"] is True
            if key and self.headers["Authorization"] != f"Bearer {key}":
                self._respond(401, b'{"error":\n {"message": "no key"}}')
                return
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


def _run(pod: Object, gateway: str, **secret: str) -> subprocess.CompletedProcess[str]:
    assert pod["command"] == ["python", "-u", "-c"]
    env = {entry["name"]: entry["value"] for entry in pod["env"] if "value" in entry}
    assert env["GATEWAY"] == "http://caracal-router:8000"
    assert {entry["name"] for entry in pod["env"] if "valueFrom" in entry} == secret.keys()
    command = [sys.executable, "-u", "-c", *pod["args"]]
    environment = {**os.environ, **env, **secret, "GATEWAY": gateway}
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


KEYS = "router.apiKeys.existingSecret=keys"


def test_with_api_keys_it_presents_the_one_that_is_meant_for_it(chart: Chart) -> None:
    pod = containers(find(chart.render(KEYS, "router.apiKeys.testSecretKey=mine"), "Pod", "caracal-test")["spec"])[0]
    assert pod["env"][-1]["valueFrom"] == {"secretKeyRef": {"name": "keys", "key": "mine"}}
    with _gateway(_frame("Hello", "stop"), DONE, key="sk-1") as gateway:
        done = _run(pod, gateway, API_KEY="sk-1\n")
        other = _run(pod, gateway, API_KEY="sk-2")
    assert done.returncode == 0, done.stderr
    assert other.stderr == 'the gateway answers 401: {"error": {"message": "no key"}}\n'


def test_without_a_key_where_one_is_needed_one_line_says_what_to_do(chart: Chart) -> None:
    pod = containers(find(chart.render(KEYS), "Pod", "caracal-test")["spec"])[0]
    with _gateway(_frame("Hello", "stop"), DONE, key="sk-1") as gateway:
        done = _run(pod, gateway)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert done.stderr.endswith("name a key for this test in router.apiKeys.testSecretKey\n")


def test_it_runs_where_routers_do(chart: Chart) -> None:
    objects = chart.render(
        "pod.nodeSelector.pool=all,router.nodeSelector.disk=fast",
        "router.tolerations[0].key=team,router.image.repository=gateway,router.image.pullPolicy=Always",
    )
    spec = find(objects, "Pod", "caracal-test")["spec"]
    assert spec["nodeSelector"] == {"pool": "all", "disk": "fast"}
    assert spec["tolerations"] == [{"key": "team"}]
    assert (spec["containers"][0]["image"], spec["containers"][0]["imagePullPolicy"]) == ("gateway:0.1.0", "Always")
