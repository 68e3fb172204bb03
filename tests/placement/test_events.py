"""ShortageReporter as Events: the official client against a small server that speaks the events routes of the API."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from kubernetes import client
from structlog.testing import capture_logs

from services.membership.shortage import CapacityShortage
from services.router.placement.kubernetes_events import KubernetesEvents

REFUSAL = CapacityShortage("experts need 8 places", {"caracal-expert-1": 3})
EVENTS = r"/api/v1/namespaces/zoo/events"


class ApiServer(ThreadingHTTPServer):
    """Keeps events as the API server does: a name is taken once, and only what is there can be patched."""

    def __init__(self) -> None:
        self.events: dict[str, dict[str, Any]] = {}
        self.uids = {"caracal-expert": "set-7", "caracal-expert-1": "pod-9"}
        self.forbids, self.answers_after_s, self.asked = False, 0.0, 0
        super().__init__(("127.0.0.1", 0), Routes)

    def connect(self) -> tuple[Any, str]:
        settings = client.Configuration(host=f"http://127.0.0.1:{self.server_port}")
        settings.retries = 0
        return client.CoreV1Api(client.ApiClient(settings)), "zoo"


class Routes(BaseHTTPRequestHandler):
    server: ApiServer

    def do_POST(self) -> None:
        event = self._body()
        if not re.fullmatch(EVENTS, self.path.partition("?")[0]):
            return self._answer(404, {})
        self.server.events[event["metadata"]["name"]] = event
        return self._answer(201, event)

    def do_GET(self) -> None:
        name = self.path.partition("?")[0].rpartition("/")[2]
        return self._answer(200 if name in self.server.uids else 404, {"metadata": {"uid": self.server.uids.get(name)}})

    def do_PATCH(self) -> None:
        patch, name = self._body(), self.path.partition("?")[0].rpartition("/")[2]
        if name not in self.server.events or "patch+json" not in self.headers["Content-Type"]:
            return self._answer(404, {})
        self.server.events[name] |= patch
        return self._answer(200, self.server.events[name])

    def _body(self) -> dict[str, Any]:
        self.server.asked += 1
        time.sleep(self.server.answers_after_s)
        found: dict[str, Any] = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        return found

    def _answer(self, status: int, body: dict[str, Any]) -> None:
        status = 403 if self.server.forbids else status
        text = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def api() -> Iterator[ApiServer]:
    with ApiServer() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def until(holds: Callable[[], object], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_the_pods_and_their_set_are_told_in_words(api: ApiServer) -> None:
    KubernetesEvents("caracal-router-x", "caracal-expert", api.connect).notify(REFUSAL)
    until(lambda: len(api.events) == 2)
    of = {event["involvedObject"]["kind"]: event for event in api.events.values()}
    assert of["Pod"]["involvedObject"].items() >= {"name": "caracal-expert-1", "uid": "pod-9"}.items()
    assert of["StatefulSet"]["involvedObject"] == {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "name": "caracal-expert",
        "namespace": "zoo",
        "uid": "set-7",
    }
    assert {(event["type"], event["reason"]) for event in of.values()} == {("Warning", "ExpertsNeedMorePods")}
    assert of["Pod"]["message"] == "3 experts here have no other place yet: experts need 8 places"
    assert of["StatefulSet"]["message"] == str(REFUSAL)


def test_the_same_again_counts_up_and_a_forgotten_event_is_made_anew(api: ApiServer) -> None:
    events = KubernetesEvents("r", "caracal-expert", api.connect)
    events.notify(CapacityShortage("no expert worker", lost=1))
    until(lambda: [event["count"] for event in api.events.values()] == [1])
    events.notify(CapacityShortage("no expert worker", lost=1))
    until(lambda: [event["count"] for event in api.events.values()] == [2])
    api.events.clear()
    events.notify(CapacityShortage("no expert worker", lost=1))
    until(lambda: [event["count"] for event in api.events.values()] == [1])


def test_experts_that_are_lost_are_another_matter(api: ApiServer) -> None:
    KubernetesEvents("r", "caracal-expert", api.connect).notify(CapacityShortage("no room", lost=3))
    until(lambda: len(api.events) == 1)
    (event,) = api.events.values()
    said = "3 experts are loaded on no worker, requests wait for them: no room"
    assert (event["reason"], event["message"]) == ("ExpertsUnplaced", said)


def test_of_a_pod_that_is_gone_it_tells_all_the_same(api: ApiServer) -> None:
    api.uids.clear()
    KubernetesEvents("r", "caracal-expert", api.connect).notify(REFUSAL)
    until(lambda: len(api.events) == 2)
    assert all("uid" not in event["involvedObject"] for event in api.events.values())


def test_what_it_may_not_is_said_once_and_works_again_later(api: ApiServer) -> None:
    events = KubernetesEvents("r", "caracal-expert", api.connect)
    api.forbids = True
    with capture_logs() as logs:
        for time_ in (1, 2):
            events.notify(CapacityShortage("no expert worker", lost=1))
            until(lambda wanted=time_: api.asked == wanted)
        api.forbids = False
        events.notify(REFUSAL)
        until(lambda: {e["involvedObject"]["kind"] for e in api.events.values() if e["count"] == 1} >= {"Pod"})
    said = [entry for entry in logs if entry["log_level"] == "warning"]
    assert len(said) == 1
    assert "403" in said[0]["error"]


def test_a_server_that_is_away_or_silent_holds_nobody_up(api: ApiServer) -> None:
    api.answers_after_s = 60.0
    silent = KubernetesEvents("r", "caracal-expert", api.connect)
    away = KubernetesEvents("r", "caracal-expert", lambda: (_nowhere(), "zoo"))
    started = time.monotonic()
    with capture_logs() as logs:
        for events in (silent, away):
            for _ in range(100):
                events.notify(REFUSAL)
        assert time.monotonic() - started < 1
        until(lambda: len(logs) == 2)
    assert [entry["event"] for entry in logs] == ["kubernetes is not pushed of a shortage"] * 2
    assert api.asked <= 2, "only the newest is pushed, and after a timeout nothing more of it"


def _nowhere() -> Any:
    settings = client.Configuration(host="http://127.0.0.1:1")
    settings.retries = 0
    return client.CoreV1Api(client.ApiClient(settings))


def test_outside_a_cluster_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with capture_logs() as logs:
        KubernetesEvents("r", "caracal-expert").notify(REFUSAL)
        until(lambda: logs)
    assert "ConfigException" in logs[0]["error"]
