"""Capacity shortages as Kubernetes Events: the official client against a small server with the events routes."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from kubernetes import client
from structlog.testing import capture_logs

from services.membership.shortage import CapacityShortage
from services.router.placement.kubernetes_events import KubernetesEvents

SHORTAGE = CapacityShortage("experts need 8 places", {"caracal-expert-1": 3})
EVENTS = r"/api/v1/namespaces/zoo/events"


class ApiServer(ThreadingHTTPServer):
    """Stores events like the API server: only an event that exists can be patched."""

    def __init__(self) -> None:
        self.events: dict[str, dict[str, Any]] = {}
        self.uids = {"caracal-expert": "set-7", "caracal-expert-1": "pod-9"}
        self.forbids, self.answers_after_s, self.calls = False, 0.0, 0
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
        self.server.calls += 1
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


def until(condition: Callable[[], object], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_the_pod_of_a_worker_that_computes_wrongly_gets_an_event(api: ApiServer) -> None:
    wrong = {"caracal-expert-1": "it gave other bits than its replicas"}
    KubernetesEvents("caracal-router-x", "caracal-expert", api.connect).notify(CapacityShortage("", wrong=wrong))
    until(lambda: api.events)
    (event,) = api.events.values()
    assert event["involvedObject"].items() >= {"kind": "Pod", "name": "caracal-expert-1", "uid": "pod-9"}.items()
    assert (event["reason"], event["message"]) == ("WorkerComputesWrongly", wrong["caracal-expert-1"])


def test_the_pods_and_their_stateful_set_get_events(api: ApiServer) -> None:
    KubernetesEvents("caracal-router-x", "caracal-expert", api.connect).notify(SHORTAGE)
    until(lambda: len(api.events) == 2)
    by_kind = {event["involvedObject"]["kind"]: event for event in api.events.values()}
    assert by_kind["Pod"]["involvedObject"].items() >= {"name": "caracal-expert-1", "uid": "pod-9"}.items()
    assert by_kind["StatefulSet"]["involvedObject"] == {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "name": "caracal-expert",
        "namespace": "zoo",
        "uid": "set-7",
    }
    assert {(event["type"], event["reason"]) for event in by_kind.values()} == {("Warning", "ExpertsNeedMorePods")}
    assert by_kind["Pod"]["message"] == "3 experts here have no other place yet: experts need 8 places"
    assert by_kind["StatefulSet"]["message"] == str(SHORTAGE)


def test_a_repeated_event_counts_up_and_a_deleted_one_is_created_again(api: ApiServer) -> None:
    events = KubernetesEvents("r", "caracal-expert", api.connect)
    events.notify(CapacityShortage("no expert worker", lost=1))
    until(lambda: [event["count"] for event in api.events.values()] == [1])
    events.notify(CapacityShortage("no expert worker", lost=1))
    until(lambda: [event["count"] for event in api.events.values()] == [2])
    api.events.clear()
    events.notify(CapacityShortage("no expert worker", lost=1))
    until(lambda: [event["count"] for event in api.events.values()] == [1])


def test_lost_experts_have_their_own_reason(api: ApiServer) -> None:
    KubernetesEvents("r", "caracal-expert", api.connect).notify(CapacityShortage("no capacity", lost=3))
    until(lambda: len(api.events) == 1)
    (event,) = api.events.values()
    message = "3 experts are loaded on no worker, requests wait for them: no capacity"
    assert (event["reason"], event["message"]) == ("ExpertsUnplaced", message)


def test_a_pod_that_is_gone_gets_an_event_too(api: ApiServer) -> None:
    api.uids.clear()
    KubernetesEvents("r", "caracal-expert", api.connect).notify(SHORTAGE)
    until(lambda: len(api.events) == 2)
    assert all("uid" not in event["involvedObject"] for event in api.events.values())


def test_a_forbidden_event_is_logged_once_and_works_again_later(api: ApiServer) -> None:
    events = KubernetesEvents("r", "caracal-expert", api.connect)
    api.forbids = True
    with capture_logs() as logs:
        for count in (1, 2):
            events.notify(CapacityShortage("no expert worker", lost=1))
            until(partial(_has_calls, api, count))
        api.forbids = False
        events.notify(SHORTAGE)
        until(lambda: {e["involvedObject"]["kind"] for e in api.events.values() if e["count"] == 1} >= {"Pod"})
    warnings = [entry for entry in logs if entry["log_level"] == "warning"]
    assert len(warnings) == 1
    assert "403" in warnings[0]["error"]


def test_a_server_that_is_unreachable_or_silent_blocks_no_caller(api: ApiServer) -> None:
    api.answers_after_s = 60.0
    silent = KubernetesEvents("r", "caracal-expert", api.connect)
    away = KubernetesEvents("r", "caracal-expert", lambda: (_nowhere(), "zoo"))
    started = time.monotonic()
    with capture_logs() as logs:
        for events in (silent, away):
            for _ in range(100):
                events.notify(SHORTAGE)
        assert time.monotonic() - started < 1
        until(lambda: len(logs) == 2)
    assert [entry["event"] for entry in logs] == ["capacity shortage could not be reported as a kubernetes event"] * 2
    assert api.calls <= 2, "only the newest is sent, and nothing more of it after a timeout"


def _has_calls(api: ApiServer, count: int) -> bool:
    return api.calls == count


def _nowhere() -> Any:
    settings = client.Configuration(host="http://127.0.0.1:1")
    settings.retries = 0
    return client.CoreV1Api(client.ApiClient(settings))


def test_outside_a_cluster_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with capture_logs() as logs:
        KubernetesEvents("r", "caracal-expert").notify(SHORTAGE)
        until(lambda: logs)
    assert "ConfigException" in logs[0]["error"]
