"""`caracal status --gateway` prints a router's table, or one line about what answers instead."""

from __future__ import annotations

import asyncio
import http.server
import json
import os
import socket
import threading
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ClassVar

import pytest
from support.cluster_harness import ClusterUnderTest
from support.kube_api import OVERVIEW
from typer.testing import CliRunner

from services.cli.app import app
from services.cli.gateway_client import ask_gateway
from services.cli.run_state import NoCluster, RunState, save
from services.cli.scale import scale
from services.membership.redis import Membership
from services.process.settings import InvalidSetting

pytestmark = pytest.mark.processes


def _status(url: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["status", "--gateway", url], env={"COLUMNS": "200"})
    return done.exit_code, done.output


def test_the_table_comes_from_the_router(cluster: ClusterUnderTest) -> None:
    url = f"http://{cluster.records('router')[0].metrics_address}"
    code, output = _status(url)
    assert code == 0, output
    for expected in ("attention-0", "expert-0", f"epoch {cluster.epoch()}", "numerics class"):
        assert expected in output
    with urllib.request.urlopen(f"{url}/cluster") as answer:
        overview = json.load(answer)
    assert overview["leader"] == overview["workers"][0]["worker_id"]
    assert overview["numerics_classes"] == [cluster.records("attention")[0].numerics_class]
    assert {worker["role"] for worker in overview["workers"]} == {"router", "attention", "expert"}


class OtherServer(http.server.BaseHTTPRequestHandler):
    """Answers /STATUS/TEXT/cluster with that status and text."""

    def do_GET(self) -> None:
        _, status, text, _ = self.path.split("/")
        self.send_response(int(status))
        self.send_header("Location", "https://elsewhere")
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: object) -> None:
        return


@pytest.fixture(scope="module")
def other_server() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), OtherServer)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/404/none", "is not a Caracal gateway (status 404"),
        ("/200/<html>", "is not a Caracal gateway (status 200"),
        ("/200/{}", "is not a Caracal gateway (status 200"),
        ('/200/{"workers":[{}]}', "is not a Caracal gateway (status 200"),
        ('/503/{"error":{"message":"gone"}}', "answers: gone"),
        ("/308/moved", "redirects to https://elsewhere: use that URL"),
    ],
)
def test_another_server_answers(other_server: str, path: str, expected: str) -> None:
    code, output = _status(other_server + path)
    assert (code, expected in output, other_server in output) == (1, True, True), output


def test_a_server_that_never_answers() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(NoCluster, match=f"no gateway answers at {url}: timed out"):
            ask_gateway(url, timeout_s=0.1)


@pytest.mark.parametrize(
    ("url", "code", "expected"),
    [
        ("http://127.0.0.1:1", 1, "no gateway answers at http://127.0.0.1:1"),
        ("127.0.0.1:1", 1, "no gateway answers at 127.0.0.1:1"),
        ("http://a..b:1", 2, "http://a..b:1"),
        ("http://127.0.0.1:99999", 2, "is not the URL of a gateway"),
        ("http://", 2, "is not the URL of a gateway"),
    ],
)
def test_no_server_answers(url: str, code: int, expected: str) -> None:
    ended, output = _status(url)
    assert (ended, expected in output) == (code, True), output


class FakeRouter(http.server.BaseHTTPRequestHandler):
    """A router that answers `answers[path]`, a status and a JSON body."""

    answers: ClassVar[dict[str, tuple[int, object]]] = {}

    def do_GET(self) -> None:
        status, body = self.answers[self.path]
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def log_message(self, *_: object) -> None:
        return


def test_the_exit_code_shows_whether_requests_are_served() -> None:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), FakeRouter) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}"
        FakeRouter.answers = {"/cluster": (200, OVERVIEW), "/ready": (200, {"status": "ready"})}
        code, output = _status(url)
        assert (code, "numerics class unknown\n" in output, "desired" in output) == (0, True, False), output
        FakeRouter.answers["/cluster"] = 200, OVERVIEW | {"desired": {"expert": 2}}
        assert "numerics class unknown · desired expert=2" in _status(url)[1]
        FakeRouter.answers["/ready"] = 503, {"reason": "all attention workers are draining", "error": {"message": "x"}}
        code, output = _status(url)
        assert (code, "requests are not served: all attention workers are draining" in output) == (3, True), output
        FakeRouter.answers["/cluster"] = 200, OVERVIEW | {"workers": []}
        code, output = _status(url)
        assert (code, "requests are not served: no router runs" in output) == (3, True), output
        server.shutdown()


def test_a_cluster_without_workers_is_not_served(cluster: ClusterUnderTest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CARACAL_REDIS_URL", cluster.local.redis_url)
    monkeypatch.setenv("CARACAL_CLUSTER_KEY_FILE", str(cluster.local.key_file))
    for name, expected in (("caracal", 0), ("nobody", 3)):
        monkeypatch.setenv("CARACAL_CLUSTER", name)
        done = CliRunner().invoke(app, ["status"])
        assert done.exit_code == expected, done.output


def test_scale_stops_when_somebody_else_sets_another_number(
    cluster: ClusterUnderTest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The cluster named here has no processes, so the desired counts are never reached."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    redis_url = cluster.local.redis_url
    save(RunState(pid=os.getpid(), url="http://x", redis_url=redis_url, cluster="nobody"))
    scale({"expert": 2}, wait_s=0)
    with ThreadPoolExecutor(1) as pool:
        waits = pool.submit(scale, {"expert": 3}, wait_s=20)
        asyncio.run(_set_expert(redis_url, after=3, to=5))
        with pytest.raises(InvalidSetting, match="somebody else set expert=5: no longer waiting for expert=3"):
            waits.result(10)
    with pytest.raises(InvalidSetting, match=r"not reached within 0\.2 s"):
        scale({"expert": 2}, wait_s=0.2)


async def _set_expert(redis_url: str, after: int, to: int) -> None:
    membership = Membership(redis_url, "nobody")
    for _ in range(1000):
        if (await membership.desired()).get("expert") == after:
            break
        await asyncio.sleep(0.01)
    await membership.set_desired("expert", to)
    await membership.close()
