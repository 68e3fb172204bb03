"""A small HTTP server with the few routes of the Kubernetes API that `caracal --context` uses."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qsl, unquote

from support.json_server import JsonHandler, JsonServer

CORE, APPS = "/api/v1/namespaces/models", "/apis/apps/v1/namespaces/models"
BATCH = "/apis/batch/v1/namespaces/models"
POLLS = 2  # a new pod is not ready, and a deleted one still listed, for so many polls


class FakeApi(JsonServer):
    """A context manager. Serves the release `caracal` in namespace `models`: a router, and workers that patching the
    scale subresource starts or stops."""

    def __init__(self) -> None:
        super().__init__(Handler)
        self.releases = ["caracal"]
        self.answer: tuple[int, Any] | None = None  # to every request
        self.proxied: tuple[int, Any] = 200, OVERVIEW
        self.ended: tuple[str, dict[str, Any]] | None = (
            None  # how caracal-expert-0 ended: (field of the pod status, terminated state)
        )
        self.stuck = False  # new pods cannot be scheduled
        self.port: int | None = 8002  # the router's port named admin
        self.ready: tuple[int, Any] | None = None  # the router's /ready; None = it is ready
        self.states: dict[str, dict[str, Any]] = {}  # pod -> fields that replace those of its status
        self.workload_states: dict[
            str, dict[str, Any]
        ] = {}  # role -> fields that replace those of its workload's status
        self.identities: dict[str, dict[str, Any]] = {}  # pod -> further fields of its metadata
        self.events: tuple[int, Any] = 200, {"items": []}
        self.jobs: list[dict[str, Any]] = []
        self.job_pods: list[dict[str, Any]] = []  # pods of Jobs
        self.logs: dict[str, str] = {}  # pod -> its log
        self.overwritten_by: int | None = None  # the count another client sets right after each patch of a scale
        self.start(attention=1, expert=1)

    def start(self, **replicas: int) -> None:
        """Makes these the workers, all ready."""
        self.replicas = replicas
        self._changing: dict[tuple[str, int], int] = {}  # pod -> polls until it is ready, or gone
        self._listed = {(role, n) for role, count in replicas.items() for n in range(count)}

    @property
    def reconciled(self) -> bool:
        """Whether no pod is starting or terminating."""
        return not self._changing

    def scale(self, role: str, count: int) -> None:
        self.replicas[role] = count
        wanted = {(role, n) for n in range(count)}
        for pod in wanted ^ {pod for pod in self._listed if pod[0] == role}:
            self._changing[pod] = POLLS
        self._listed |= wanted

    def pods(self) -> list[dict[str, Any]]:
        """Lists the pods; counts as one poll."""
        for pod, polls in list(self._changing.items()):
            self._changing[pod] = polls if self.stuck else polls - 1
            if polls == 0:
                del self._changing[pod]
                if pod[1] >= self.replicas[pod[0]]:
                    self._listed.discard(pod)
        return [self._pod(*pod) for pod in sorted(self._listed | {("router", 0)})]

    def workloads(self, *roles: str) -> list[dict[str, Any]]:
        spec = {"selector": {}, "template": {}, "serviceName": "x"}
        counts = self.replicas | {"router": 1}
        return [
            {
                "metadata": {"name": f"{release}-{role}", "labels": _labels(release, role)},
                "spec": spec | {"replicas": counts[role]},
                "status": {"replicas": counts[role], "readyReplicas": counts[role]}
                | self.workload_states.get(role, {}),
            }
            for release in self.releases
            for role in roles
        ]

    def _pod(self, role: str, number: int) -> dict[str, Any]:
        changing, leaving = (role, number) in self._changing, number >= (self.replicas | {"router": 1})[role]
        conditions = [{"type": "Ready", "status": str(leaving or not changing)}]
        if self.stuck and changing:
            conditions.append({"type": "PodScheduled", "status": "False", "message": "no node has 8 GPUs"})
        if role == "router" and self.ready is not None:
            conditions[0]["status"] = "False"
        status = {"phase": "Running", "conditions": conditions, "containerStatuses": [_container({})]}
        if self.ended and (role, number) == ("expert", 0):
            status |= {"conditions": [], self.ended[0]: [_container({"terminated": self.ended[1]})]}
        status |= self.states.get(f"caracal-{role}-{number}", {})
        metadata: dict[str, Any] = {"name": f"caracal-{role}-{number}", "labels": _labels("caracal", role)}
        metadata |= self.identities.get(metadata["name"], {})
        if changing and leaving:
            metadata["deletionTimestamp"] = "2026-01-01T00:00:00Z"
        return {"metadata": metadata, "spec": {"nodeName": "n1", "containers": [self._container()]}, "status": status}

    def _container(self) -> dict[str, Any]:
        ports = [{"name": "grpc", "containerPort": 50051}]
        return {"name": "x", "ports": ports + ([{"name": "admin", "containerPort": self.port}] if self.port else [])}


class Handler(JsonHandler):
    server: FakeApi

    def do_GET(self) -> None:
        path, _, query = unquote(self.path).partition("?")
        if self.server.answer:
            self.answer(*self.server.answer)
        elif path == f"{APPS}/statefulsets":
            self._list(query, self.server.workloads("attention", "expert"))
        elif path == f"{APPS}/deployments":
            self._list(query, self.server.workloads("router"))
        elif path == f"{CORE}/pods":
            self._list(query, self.server.pods() + self.server.job_pods)
        elif path == f"{BATCH}/jobs" and self.server.jobs:
            self._list(query, self.server.jobs)
        elif path.startswith(f"{CORE}/pods/") and path.endswith("/log"):
            self._log(path.removeprefix(f"{CORE}/pods/").removesuffix("/log"), dict(parse_qsl(query)))
        elif path == f"{CORE}/events":
            assert dict(parse_qsl(query))["fieldSelector"] == "type=Warning"
            self.answer(*self.server.events)
        elif path == f"{CORE}/pods/caracal-router-0:{self.server.port or 8002}/proxy/cluster":
            self.answer(*self.server.proxied)
        elif path == f"{CORE}/pods/caracal-router-0:{self.server.port or 8002}/proxy/ready" and self.server.ready:
            self.answer(*self.server.ready)
        else:
            self.answer(404, {"kind": "Status", "message": path})

    def do_PATCH(self) -> None:
        body = self.body()
        role = self.path.removeprefix(f"{APPS}/statefulsets/caracal-").removesuffix("/scale")
        self.server.scale(role, body["spec"]["replicas"])
        if self.server.overwritten_by is not None:
            self.server.scale(role, self.server.overwritten_by)
        self.answer(200, {"metadata": {}, "spec": body["spec"]})

    def _log(self, pod: str, query: dict[str, str]) -> None:
        if pod not in self.server.logs:
            self.answer(400, {"kind": "Status", "message": f"container of {pod} is waiting to start"})
            return
        lines = self.server.logs[pod].splitlines(keepends=True)
        tail = query.get("tailLines")
        self.answer(200, "".join(lines if tail is None else lines[len(lines) - int(tail) :]))

    def _list(self, query: str, found: list[dict[str, Any]]) -> None:
        labels = set(dict(parse_qsl(query))["labelSelector"].split(","))
        self.answer(200, {"items": [item for item in found if labels <= _selectors(item["metadata"]["labels"])]})


WORKERS = [
    {"worker_id": f"caracal-{role}-0", "role": role, "address": "a:1", "boot_id": "b", "epoch": 7, "loaded": loaded}
    for role, loaded in (("router", 0), ("attention", 0), ("expert", 8))
]
OVERVIEW = {"epoch": 7, "leader": "caracal-router-0", "workers": WORKERS, "warning": "too few"}


def warning(name: str, reason: str, message: str, seen: str, kind: str = "Pod", uid: str = "") -> dict[str, Any]:
    """Returns an Event about a pod, or an object of another kind; `seen` is its time as the API writes it."""
    about = {"kind": kind, "name": name} | ({"uid": uid} if uid else {})
    return {"metadata": {}, "involvedObject": about, "reason": reason, "message": message, "lastTimestamp": seen}


def job(component: str, digest: str, made: str, **status: Any) -> dict[str, Any]:
    """Returns a Job of the release; `made` is the time of its creation as the API writes it."""
    metadata = {"name": f"caracal-{component}-{digest}", "labels": _labels("caracal", component)}
    return {"metadata": metadata | {"creationTimestamp": made}, "spec": {"template": {}}, "status": status}


def job_pod(of: dict[str, Any], state: dict[str, Any], last: dict[str, Any] | None = None) -> dict[str, Any]:
    """Returns the pod of a Job, whose container is in that state, and was in `last` before."""
    name = of["metadata"]["name"]
    labels = of["metadata"]["labels"] | {"batch.kubernetes.io/job-name": name}
    container = _container(state) | ({"lastState": last} if last else {})
    status = {"phase": "Running", "conditions": [], "containerStatuses": [container]}
    return {"metadata": {"name": f"{name}-x7", "labels": labels}, "spec": {"containers": []}, "status": status}


def _labels(release: str, role: str) -> dict[str, str]:
    prefix = "app.kubernetes.io/"
    return {f"{prefix}instance": release, f"{prefix}component": role, f"{prefix}part-of": "caracal"}


def _selectors(labels: dict[str, str]) -> set[str]:
    return {f"{key}={value}" for key, value in labels.items()}


def _container(state: dict[str, Any]) -> dict[str, Any]:
    return {"name": "x", "image": "x", "imageID": "x", "ready": False, "restartCount": 3, "state": state}
