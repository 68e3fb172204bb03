"""`caracal scale` and `caracal status` on Kubernetes, through the official client (extra `k8s`)."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from services.local.gateway import overview_of
from services.local.settings import BadSetting
from services.local.state import NoCluster
from services.local.status import look
from services.telemetry import progress

LABELS = "app.kubernetes.io/part-of=caracal"
INSTANCE, COMPONENT = "app.kubernetes.io/instance", "app.kubernetes.io/component"
TIMEOUT_S = (3.0, 10.0)  # to connect, to be answered
WAIT_S, LOOK_S = 600.0, 1.0
ROUTER_PORT = 8000
MOST_PODS = 10_000  # a number above is a slip of the finger


class Release:
    """One release of the chart in a namespace of the cluster that `context` of the kubeconfig names."""

    def __init__(self, context: str, namespace: str = "", release: str = "") -> None:
        """Raises NoCluster: no client, no such context, no such release, or several."""
        try:
            from kubernetes import client, config
        except ImportError:
            raise NoCluster("--context needs the official client: pip install 'caracal[k8s]'") from None
        try:
            file = os.environ.get("KUBECONFIG") or None  # the client itself looks at it once, when imported
            contexts, _ = config.list_kube_config_contexts(file)
            found = next((one for one in contexts if one["name"] == context), None)
            if found is None:
                known = ", ".join(sorted(one["name"] for one in contexts)) or "none"
                raise NoCluster(f"the kubeconfig has no context {context!r}; it has: {known}")
            settings = client.Configuration()
            config.load_kube_config(file, context, client_configuration=settings)
        except (config.ConfigException, OSError, ValueError) as error:
            raise NoCluster(f"--context {context}: {error}") from None
        settings.retries = 0
        api = client.ApiClient(settings)
        self._core, self._apps = client.CoreV1Api(api), client.AppsV1Api(api)
        self.namespace = namespace or found["context"].get("namespace") or "default"
        self._context = context
        self.name = self._choose(release)

    def scale(self, counts: dict[str, int]) -> None:
        """Sets the replicas and waits until so many pods serve and none is leaving. Raises NoCluster, BadSetting."""
        started = time.monotonic()
        with self._calls():
            sets = {role: self._stateful_set(role).metadata.name for role in counts}
            for role, count in counts.items():
                body = {"spec": {"replicas": count}}
                self._apps.patch_namespaced_stateful_set_scale(
                    sets[role], self.namespace, body, _request_timeout=TIMEOUT_S
                )
        total = sum(counts.values())
        with progress("scaling") as report:
            while len(pods := self._pods_of(counts)) != total or not all(map(_ready, pods)):
                if time.monotonic() - started > WAIT_S:
                    raise BadSetting(f"not reached within {WAIT_S:.0f} s; `caracal status` shows how far it came")
                report(min(total, sum(map(_ready, pods))), total)
                time.sleep(LOOK_S)
        reached = ", ".join(f"{role}={count}" for role, count in counts.items())
        print(f"{reached}: reached in {time.monotonic() - started:.1f} s")

    def show(self) -> None:
        """Pods, and what the routers know of the workers. Raises NoCluster."""
        with self._calls():
            pods = self._pods()
            rows = Table("pod", "role", "state", "ready", "restarts", "node", box=box.SIMPLE_HEAD, pad_edge=False)
            for pod in pods:
                rows.add_row(*_row(pod))
            console = Console()
            console.print(f"release {self.name} in namespace {self.namespace} of {self._context}")
            console.print(rows)
            for pod in pods:
                if why := _last_words(pod):
                    console.print(f"{pod.metadata.name}: {why}", markup=False)
            self._show_workers(console, pods)

    def _show_workers(self, console: Console, pods: list[Any]) -> None:
        router = next((pod for pod in pods if _role(pod) == "router" and _ready(pod)), None)
        if router is None:
            console.print("no router is ready: nothing is known of the workers")
            return
        name = f"{router.metadata.name}:{ROUTER_PORT}"
        try:
            with self._calls():
                answer = self._core.connect_get_namespaced_pod_proxy_with_path(
                    name, self.namespace, "cluster", _preload_content=False, _request_timeout=TIMEOUT_S
                )
            console.print(look(overview_of(answer.data, answer.status, name), name))
        except NoCluster as error:
            console.print(f"{name} tells nothing of the workers: {error}", markup=False)

    def _pods_of(self, counts: dict[str, int]) -> list[Any]:
        with self._calls():
            return [pod for pod in self._pods() if _role(pod) in counts]

    def _pods(self) -> list[Any]:
        selector = f"{INSTANCE}={self.name}"
        found = self._core.list_namespaced_pod(self.namespace, label_selector=selector, _request_timeout=TIMEOUT_S)
        pods = [pod for pod in found.items if _role(pod) in ("router", "attention", "expert", "redis")]
        return sorted(pods, key=lambda pod: (_role(pod), pod.metadata.name))

    def _sets(self) -> list[Any]:
        found = self._apps.list_namespaced_stateful_set(
            self.namespace, label_selector=LABELS, _request_timeout=TIMEOUT_S
        )
        return list(found.items)

    def _stateful_set(self, role: str) -> Any:
        for one in self._sets():
            if one.metadata.labels.get(INSTANCE) == self.name and one.metadata.labels.get(COMPONENT) == role:
                return one
        raise NoCluster(f"release {self.name} has no StatefulSet of {role} workers")

    def _choose(self, wanted: str) -> str:
        with self._calls():
            names = sorted({one.metadata.labels.get(INSTANCE, "") for one in self._sets()})
        if wanted and wanted not in names:
            raise NoCluster(
                f"namespace {self.namespace} has no release {wanted!r}; it has: {', '.join(names) or 'none'}"
            )
        if not names:
            raise NoCluster(f"namespace {self.namespace} of {self._context} has no release of Caracal; try --namespace")
        if not wanted and len(names) > 1:
            raise NoCluster(
                f"namespace {self.namespace} has several releases, name one with --release: {', '.join(names)}"
            )
        return wanted or names[0]

    @contextmanager
    def _calls(self) -> Iterator[None]:
        """What goes wrong between us and the API server becomes one line."""
        from kubernetes.client import ApiException
        from urllib3.exceptions import HTTPError

        try:
            yield
        except ApiException as error:
            raise NoCluster(f"the API server of {self._context} answers {error.status} {error.reason}") from None
        except (HTTPError, OSError) as error:
            raise NoCluster(f"the API server of {self._context} does not answer: {_innermost(error)}") from None


def _role(pod: Any) -> str:
    return str((pod.metadata.labels or {}).get(COMPONENT, ""))


def _ready(pod: Any) -> bool:
    if pod.metadata.deletion_timestamp is not None:
        return False
    return any(one.type == "Ready" and one.status == "True" for one in pod.status.conditions or ())


def _row(pod: Any) -> tuple[str, ...]:
    state = "leaving" if pod.metadata.deletion_timestamp is not None else str(pod.status.phase)
    restarts = sum(one.restart_count for one in pod.status.container_statuses or ())
    ready = "yes" if _ready(pod) else "no"
    return pod.metadata.name, _role(pod), state, ready, str(restarts), pod.spec.node_name or "none yet"


def _last_words(pod: Any) -> str:
    """Why a pod does not start: its last message, or what it waits for; empty when it runs."""
    if _ready(pod):
        return ""
    for one in pod.status.container_statuses or ():
        ended = one.state.terminated or one.last_state.terminated
        if ended is not None and ended.message:
            return str(ended.message).strip().splitlines()[-1]
        if one.state.waiting is not None and one.state.waiting.reason not in (None, "ContainerCreating"):
            return f"{one.state.waiting.reason}: {one.state.waiting.message or 'no message'}"
    unmet = [one.message for one in pod.status.conditions or () if one.type == "PodScheduled" and one.status == "False"]
    return str(unmet[0]) if unmet and unmet[0] else ""


def _innermost(error: BaseException) -> str:
    """urllib3 wraps what went wrong in the story of its attempts."""
    reason = getattr(error, "reason", None)
    return _innermost(reason) if isinstance(reason, BaseException) else str(error)
