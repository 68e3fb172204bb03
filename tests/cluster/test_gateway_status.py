"""`caracal status --gateway`: from a router over HTTP, or one line about what is there instead."""

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
from services.local.settings import InvalidSetting
from services.membership.redis import Membership


def _status(url: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["status", "--gateway", url], env={"COLUMNS": "200"})
    return done.exit_code, done.output


def test_the_table_comes_from_the_router(cluster: ClusterUnderTest) -> None:
    url = f"http://{cluster.records('router')[0].metrics_address}"
    code, said = _status(url)
    assert code == 0, said
    for expected in ("attention-0", "expert-0", f"epoch {cluster.epoch()}", "numerics class"):
        assert expected in said
    with urllib.request.urlopen(f"{url}/cluster") as answer:
        pushed = json.load(answer)
    assert pushed["leader"] == pushed["workers"][0]["worker_id"]
    assert pushed["numerics_classes"] == [cluster.records("expert")[0].numerics_class]
    assert {worker["role"] for worker in pushed["workers"]} == {"router", "attention", "expert"}


class SomethingElse(http.server.BaseHTTPRequestHandler):
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
def something_else() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), SomethingElse)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/404/none", "is no gateway of Caracal (status 404"),
        ("/200/<html>", "is no gateway of Caracal (status 200"),
        ("/200/{}", "is no gateway of Caracal (status 200"),
        ('/200/{"workers":[{}]}', "is no gateway of Caracal (status 200"),
        ('/503/{"error":{"message":"gone"}}', "answers: gone"),
        ("/308/moved", "sends us to https://elsewhere: ask there"),
    ],
)
def test_something_else_answers(something_else: str, path: str, expected: str) -> None:
    code, said = _status(something_else + path)
    assert (code, expected in said, something_else in said) == (1, True, True), said


def test_something_that_never_answers() -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        url = f"http://127.0.0.1:{deaf.getsockname()[1]}"
        with pytest.raises(NoCluster, match=f"no gateway answers at {url}: timed out"):
            ask_gateway(url, timeout_s=0.1)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://127.0.0.1:1", "no gateway answers at http://127.0.0.1:1"),
        ("127.0.0.1:8000", "is no address of a gateway"),
        ("http://a..b:1", "no gateway answers at http://a..b:1"),
        ("http://127.0.0.1:99999", "is no address of a gateway"),
        ("http://", "is no address of a gateway"),
    ],
)
def test_nothing_answers(url: str, expected: str) -> None:
    code, said = _status(url)
    assert (code, expected in said) == (1, True), said


class Notified(http.server.BaseHTTPRequestHandler):
    """A router that tells `answers[path]`."""

    answers: ClassVar[dict[str, tuple[int, object]]] = {}

    def do_GET(self) -> None:
        status, body = self.answers[self.path]
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def log_message(self, *_: object) -> None:
        return


def test_the_exit_code_tells_whether_requests_are_served() -> None:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Notified) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}"
        Notified.answers = {"/cluster": (200, OVERVIEW), "/ready": (200, {"status": "ready"})}
        code, said = _status(url)
        assert (code, "numerics class unknown\n" in said, "asked for" in said) == (0, True, False), said
        Notified.answers["/cluster"] = 200, OVERVIEW | {"desired": {"expert": 2}}
        assert "numerics class unknown · asked for expert=2" in _status(url)[1]
        Notified.answers["/ready"] = 503, {"reason": "all attention workers are draining", "error": {"message": "x"}}
        code, said = _status(url)
        assert (code, "requests are not served: all attention workers are draining" in said) == (3, True), said
        Notified.answers["/cluster"] = 200, OVERVIEW | {"workers": []}
        code, said = _status(url)
        assert (code, "requests are not served: no router runs" in said) == (3, True), said
        server.shutdown()


def test_a_cluster_without_workers_is_not_served(cluster: ClusterUnderTest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CARACAL_REDIS_URL", cluster.local.redis_url)
    for name, expected in (("caracal", 0), ("nobody", 3)):
        monkeypatch.setenv("CARACAL_CLUSTER", name)
        done = CliRunner().invoke(app, ["status"])
        assert done.exit_code == expected, done.output


def test_scale_stops_when_somebody_else_sets_another_number(
    cluster: ClusterUnderTest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Of a cluster in the same Redis in which nobody follows what is asked for."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    redis_url = cluster.local.redis_url
    save(RunState(pid=os.getpid(), url="http://x", redis_url=redis_url, cluster="nobody"))
    scale({"expert": 2}, wait_s=0)
    with ThreadPoolExecutor(1) as pool:
        waits = pool.submit(scale, {"expert": 3}, wait_s=20)
        asyncio.run(_set_expert(redis_url, after=3, to=5))
        with pytest.raises(InvalidSetting, match="somebody else set expert=5: expert=3 is waited for no more"):
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
