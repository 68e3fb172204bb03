"""`caracal scale` and `status` with --context, against a small HTTP server that speaks the routes they use."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from typer.testing import CliRunner

from services.cli import app

NAMESPACE = "/namespaces/models"


class FakeApi(ThreadingHTTPServer):
    """Two StatefulSets and their pods; a patch of a scale takes effect after a look or two."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.replicas = {"attention": 1, "expert": 1}
        self.releases = ["caracal"]
        self.refuse = 0
        self.message = ""
        self.looks = 0
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def sets(self) -> list[dict[str, Any]]:
        spec = {"selector": {}, "template": {}, "serviceName": "x"}
        return [
            {"metadata": {"name": f"{release}-{role}", "labels": _labels(release, role)}, "spec": spec}
            for release in self.releases
            for role in self.replicas
        ]

    def pods(self) -> list[dict[str, Any]]:
        self.looks += 1
        counts = {**self.replicas, "router": 1}
        found = [_pod(role, n, self.looks > 2 or n == 0) for role, count in counts.items() for n in range(count)]
        if self.message:
            ended = {"terminated": {"exitCode": 2, "message": self.message}}
            found[-2]["status"] |= {"conditions": [], "containerStatuses": [_container(ended)]}
        return found


def _labels(release: str, role: str) -> dict[str, str]:
    prefix = "app.kubernetes.io/"
    return {f"{prefix}instance": release, f"{prefix}component": role, f"{prefix}part-of": "caracal"}


def _container(state: dict[str, Any]) -> dict[str, Any]:
    return {"name": "x", "image": "x", "imageID": "x", "ready": False, "restartCount": 3, "state": state}


def _pod(role: str, number: int, ready: bool) -> dict[str, Any]:
    condition = {"type": "Ready", "status": str(ready)}
    return {
        "metadata": {"name": f"caracal-{role}-{number}", "labels": _labels("caracal", role)},
        "spec": {"nodeName": "n1", "containers": [{"name": "x"}]},
        "status": {"phase": "Running", "conditions": [condition]},
    }


class Handler(BaseHTTPRequestHandler):
    server: FakeApi

    def do_GET(self) -> None:
        path = unquote(self.path.partition("?")[0])
        if self.server.refuse:
            self._send(self.server.refuse, {"kind": "Status", "message": "no"})
        elif path == f"/apis/apps/v1{NAMESPACE}/statefulsets":
            self._send(200, {"items": self.server.sets()})
        elif path == f"/api/v1{NAMESPACE}/pods":
            self._send(200, {"items": self.server.pods()})
        elif path == f"/api/v1{NAMESPACE}/pods/caracal-router-0:8000/proxy/cluster":
            self._send(200, {"epoch": 7, "leader": "caracal-router-0", "workers": [], "warning": "too few"})
        else:
            self._send(404, {"kind": "Status", "message": path})

    def do_PATCH(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        role = self.path.split("/")[-2].removeprefix("caracal-")
        self.server.replicas[role] = body["spec"]["replicas"]
        self._send(200, {"metadata": {}, "spec": body["spec"]})

    def log_message(self, *_: object) -> None:
        return

    def _send(self, status: int, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeApi]:
    server = FakeApi()
    _kubeconfig(tmp_path / "config", server.server_address[1])
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
    yield server
    server.shutdown()
    server.server_close()


def _kubeconfig(path: Path, port: int) -> None:
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{port}"}}],
        "users": [{"name": "u", "user": {}}],
        "contexts": [{"name": "lab", "context": {"cluster": "c", "user": "u", "namespace": "models"}}],
        "current-context": "lab",
    }
    path.write_text(json.dumps(config))


def _run(*words: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, list(words), env={"COLUMNS": "200"})
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, done.output


def test_scale_patches_and_waits(api: FakeApi) -> None:
    code, said = _run("scale", "expert=3", "attention=2", "--context", "lab")
    assert code == 0, said
    assert api.replicas == {"attention": 2, "expert": 3}
    assert "expert=3, attention=2: reached in" in said
    assert api.looks > 2, "it did not wait for the pods"


def test_status_shows_pods_workers_and_last_words(api: FakeApi) -> None:
    api.message = "starting\ncaracal: model-1.safetensors: model.norm.weight: truncated"
    code, said = _run("status", "--context", "lab")
    assert code == 0, said
    for expected in (
        "release caracal in namespace models of lab",
        "caracal-attention-0",
        "epoch 7",
        "warning: too few",
    ):
        assert expected in said
    assert "caracal-expert-0: caracal: model-1.safetensors: model.norm.weight: truncated" in said


def test_several_releases_are_told_apart(api: FakeApi) -> None:
    api.releases = ["caracal", "other"]
    code, said = _run("scale", "expert=2", "--context", "lab")
    assert (code, "name one with --release: caracal, other" in said) == (1, True), said
    code, said = _run("scale", "expert=2", "--context", "lab", "--release", "third")
    assert (code, "no release 'third'" in said) == (1, True), said
    assert _run("scale", "expert=2", "--context", "lab", "--release", "caracal")[0] == 0


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("status", "--context", "elsewhere"), "no context 'elsewhere'; it has: lab"),
        (("status", "--context", "lab", "--namespace", "empty"), "the API server of lab answers 404"),
        (("scale", "expert=0", "--context", "lab"), "at least one expert worker"),
        (("scale", "router=2", "--context", "lab"), "scale takes"),
        (("status", "--context", "lab", "--gateway", "http://127.0.0.1:1"), "name two clusters"),
    ],
)
def test_slips_get_one_line(api: FakeApi, words: tuple[str, ...], expected: str) -> None:
    code, said = _run(*words)
    assert code == 1
    assert expected in said
    assert "Traceback" not in said


def test_a_server_that_forbids_or_is_away(api: FakeApi, tmp_path: Path) -> None:
    api.refuse = 403
    assert "the API server of lab answers 403" in _run("status", "--context", "lab")[1]
    _kubeconfig(tmp_path / "config", 1)
    code, said = _run("status", "--context", "lab")
    assert (code, "the API server of lab does not answer" in said) == (1, True), said
