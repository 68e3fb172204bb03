"""Reports capacity shortages as Kubernetes Events, for `kubectl get events`. Serving never waits for the API server.

A daemon thread sends them, each call bounded in time; a failure is logged once and changes nothing else.
"""

from __future__ import annotations

import json
import queue
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import structlog

from services.membership.shortage import CapacityShortage, waiting_experts

log = structlog.get_logger(__name__)

NEEDED, LOST, WRONG = "ExpertsNeedMorePods", "ExpertsUnplaced", "WorkerComputesWrongly"
TIMEOUT_S = (2.0, 5.0)  # for the connection, for the answer
NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
Report = tuple[str, str, str, str]  # kind and name of the object, reason, message


class EventsUnavailable(Exception):
    """Expected: the API server cannot be reached or rejects the call; the message says why."""


def in_cluster() -> tuple[Any, str]:
    """Returns this pod's API client and namespace. Raises EventsUnavailable."""
    try:
        from kubernetes import client, config
    except ImportError as error:
        raise EventsUnavailable(f"{error}; install caracal[k8s]") from None
    settings = client.Configuration()
    settings.retries = 0
    try:
        config.load_incluster_config(client_configuration=settings)
        return client.CoreV1Api(client.ApiClient(settings)), NAMESPACE.read_text(encoding="utf-8").strip()
    except (OSError, ValueError, config.ConfigException) as error:
        raise EventsUnavailable(f"{type(error).__name__}: {error}") from None


class KubernetesEvents:
    """Sends Events for one router. `reporter` is the router's name, `expert_set` the name of the StatefulSet.

    A worker's id is the name of its pod.
    """

    def __init__(self, reporter: str, expert_set: str, connect: Callable[[], tuple[Any, str]] = in_cluster) -> None:
        self._reporter, self._expert_set, self._connect = reporter, expert_set, connect
        self._newest: queue.SimpleQueue[CapacityShortage] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._sent: dict[Report, tuple[str, int]] = {}  # the event's name and count
        self._failing = False

    def notify(self, shortage: CapacityShortage) -> None:
        """Reports the shortage; returns at once. Only the newest of waiting ones is sent."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="events", daemon=True)
            self._thread.start()
        self._newest.put(shortage)

    def _run(self) -> None:
        while True:
            shortage = self._newest.get()
            while not self._newest.empty():
                shortage = self._newest.get()
            try:
                self._emit(shortage)
                self._failing = False
            except EventsUnavailable as error:
                if not self._failing:
                    log.warning("capacity shortage could not be reported as a kubernetes event", error=str(error))
                self._failing = True

    def _emit(self, shortage: CapacityShortage) -> None:
        api, namespace = self._connect()
        with api.api_client:
            for report in self._reports(shortage):
                self._send(api, namespace, report)

    def _reports(self, shortage: CapacityShortage) -> Iterator[Report]:
        for worker_id, why in shortage.wrong.items():
            yield "Pod", worker_id, WRONG, why
        for worker_id, count in shortage.workers.items():
            yield "Pod", worker_id, NEEDED, waiting_experts(count, shortage.reason)
        if self._expert_set and (shortage.workers or shortage.lost):
            yield "StatefulSet", self._expert_set, LOST if shortage.lost else NEEDED, str(shortage)

    def _send(self, api: Any, namespace: str, report: Report) -> None:
        """Creates the event, or increments its count when it was sent before and still exists."""
        from kubernetes.client import ApiException
        from urllib3.exceptions import HTTPError

        name, count = self._sent.get(report, ("", 0))
        now = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        try:
            if count:
                try:
                    body = {"count": count + 1, "lastTimestamp": now}
                    api.patch_namespaced_event(name, namespace, body, _request_timeout=TIMEOUT_S)
                except ApiException as error:
                    if error.status != 404:
                        raise
                    count = 0
            if not count:
                event = self._event(namespace, report, _uid(api, namespace, report), now)
                name = event["metadata"]["name"]
                api.create_namespaced_event(namespace, event, _request_timeout=TIMEOUT_S)
        except (ApiException, HTTPError, OSError, ValueError) as error:
            why = f"{error.status} {error.reason}" if isinstance(error, ApiException) else str(error)
            raise EventsUnavailable(f"{type(error).__name__}: {why}") from None
        self._sent[report] = name, count + 1

    def _event(self, namespace: str, report: Report, uid: str, now: str) -> dict[str, Any]:
        kind, name, reason, message = report
        return {
            "metadata": {"name": f"{name}.{time.time_ns():x}", "namespace": namespace},
            "involvedObject": {
                "apiVersion": "v1" if kind == "Pod" else "apps/v1",
                "kind": kind,
                "name": name,
                "namespace": namespace,
            }
            | ({"uid": uid} if uid else {}),
            "type": "Warning",
            "reason": reason,
            "message": message[:1024],  # the API's limit
            "source": {"component": "caracal-placement"},
            "reportingComponent": "caracal-placement",
            "reportingInstance": self._reporter,
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
        }


def _uid(api: Any, namespace: str, report: Report) -> str:
    """Returns the object's uid, without which `kubectl describe` does not show an event of it.

    Empty when the object is gone or may not be read.
    """
    from kubernetes.client import ApiException, AppsV1Api

    kind, name, *_ = report
    read = api.read_namespaced_pod if kind == "Pod" else AppsV1Api(api.api_client).read_namespaced_stateful_set
    try:
        # Unparsed: the client would reject an object of a newer API that lacks what it expects.
        answer = read(name, namespace, _preload_content=False, _request_timeout=TIMEOUT_S)
    except ApiException as error:
        if error.status in (403, 404):
            return ""
        raise
    return str(json.loads(answer.data)["metadata"]["uid"])
