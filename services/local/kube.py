"""One release of the chart on Kubernetes, through the official client (extra `k8s`)."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from services.local.gateway import overview_of
from services.local.kubeconfig import connect, one_line
from services.local.pods import is_ready, last_words, role_of
from services.local.settings import BadSetting
from services.local.state import NoCluster
from services.overview import Overview
from services.telemetry import progress

PART_OF, INSTANCE = "app.kubernetes.io/part-of=caracal", "app.kubernetes.io/instance"
ROLES = ("router", "attention", "expert", "redis")  # not the pods of `helm test`
TIMEOUT_S = (3.0, 10.0)  # to connect, to be answered
WAIT_S, LOOK_S = 600.0, 0.5
ROUTER_PORT = 8000
MOST_PODS = 10_000  # a number above is a slip of the finger


def check_pods(role: str, count: int) -> None:
    """Raises BadSetting."""
    if count < 1:
        raise BadSetting(f"{role}={count}: a release needs at least one {role} worker to answer")
    if count > MOST_PODS:
        raise BadSetting(f"{role}={count}: more than {MOST_PODS} pods are refused")


class Release:
    """One release in a namespace of the cluster that `context` of the kubeconfig names. Every call of every method is
    bounded in time and raises NoCluster, in one line, when the API server refuses it or does not answer."""

    def __init__(self, context: str, namespace: str = "", release: str = "") -> None:
        """Raises NoCluster: no client, no such context, no such release, or several."""
        api, own = connect(context)
        from kubernetes import client

        self._core, self._apps = client.CoreV1Api(api), client.AppsV1Api(api)
        self.namespace = namespace or own or "default"
        self.context = context
        self.name = self._choose(release)

    def scale(self, counts: dict[str, int], wait_s: float = WAIT_S) -> None:
        """Sets the replicas and waits until so many pods of each role serve and none is leaving. Raises BadSetting when
        that is not reached in time."""
        started = time.monotonic()
        names = {role: self._stateful_set(role) for role in counts}
        for role, count in counts.items():
            body = {"spec": {"replicas": count}}
            with self._calls():
                self._apps.patch_namespaced_stateful_set_scale(
                    names[role], self.namespace, body, _request_timeout=TIMEOUT_S
                )
        with progress("scaling") as report:
            while not _reached(pods := self.pods(), counts, report):
                if time.monotonic() - started > wait_s:
                    raise BadSetting(f"not reached within {wait_s:g} s; {self._obstacle(pods)}")
                time.sleep(LOOK_S)
        reached = ", ".join(f"{role}={count}" for role, count in counts.items())
        print(f"{reached}: reached in {time.monotonic() - started:.1f} s")

    def workloads(self) -> list[Any]:
        """The release's StatefulSets and Deployments, as the API gives them, by name."""
        return sorted(
            self._list(self._apps.list_namespaced_stateful_set, self.name)
            + self._list(self._apps.list_namespaced_deployment, self.name),
            key=_name,
        )

    def pods(self) -> list[Any]:
        """The release's pods, as the API gives them, by role and name."""
        found = self._list(self._core.list_namespaced_pod, self.name)
        return sorted((pod for pod in found if role_of(pod) in ROLES), key=lambda pod: (role_of(pod), _name(pod)))

    def overview(self, router: str) -> Overview:
        """What the router in the pod of that name knows of the workers, through the API server's proxy."""
        from kubernetes.client import ApiException

        name = f"{router}:{ROUTER_PORT}"
        with self._calls():
            try:
                answer = self._core.connect_get_namespaced_pod_proxy_with_path(
                    name, self.namespace, "cluster", _preload_content=False, _request_timeout=TIMEOUT_S
                )
                status, text = answer.status, answer.data
            except ApiException as error:
                if not error.body or _status_message(error.body):
                    raise
                status, text = error.status, error.body  # the router's own words
        return overview_of(text, status, name)

    def _obstacle(self, pods: list[Any]) -> str:
        why = next((f"{_name(pod)}: {words}" for pod in pods if (words := last_words(pod))), "")
        return why or f"`caracal status --context {self.context}` shows how far it came"

    def _stateful_set(self, role: str) -> str:
        names = [
            _name(one) for one in self._list(self._apps.list_namespaced_stateful_set, self.name) if role_of(one) == role
        ]
        if len(names) == 1:
            return names[0]
        found = f"several StatefulSets of {role} workers: {', '.join(names)}" if names else f"no {role} StatefulSet"
        raise NoCluster(f"release {self.name} in namespace {self.namespace} has {found}")

    def _choose(self, wanted: str) -> str:
        sets = self._list(self._apps.list_namespaced_stateful_set)
        names = sorted({one.metadata.labels.get(INSTANCE, "") for one in sets if role_of(one) in ROLES})
        if wanted in names:
            return wanted
        where = f"namespace {self.namespace} of {self.context}"
        if wanted:
            raise NoCluster(f"{where} has no release {wanted!r}; it has: {', '.join(names) or 'none'}")
        if not names:
            raise NoCluster(f"{where} has no release of Caracal; try --namespace")
        if len(names) > 1:
            raise NoCluster(f"{where} has several releases, name one with --release: {', '.join(names)}")
        return str(names[0])

    def _list(self, ask: Any, release: str = "") -> list[Any]:
        selector = f"{PART_OF},{INSTANCE}={release}" if release else PART_OF
        with self._calls():
            return list(ask(self.namespace, label_selector=selector, _request_timeout=TIMEOUT_S).items)

    @contextmanager
    def _calls(self) -> Iterator[None]:
        """What goes wrong between us and the API server becomes one line."""
        from kubernetes.client import ApiException
        from urllib3.exceptions import HTTPError

        server = f"the API server of {self.context}"
        try:
            yield
        except ApiException as error:
            said = one_line(_status_message(error.body) or error.reason)
            raise NoCluster(
                f"{server} answers {error.status}: {said}" if error.status else f"{server}: {said}"
            ) from None
        except (HTTPError, OSError) as error:
            raise NoCluster(f"{server} does not answer: {one_line(_innermost(error))}") from None
        except ValueError:
            raise NoCluster(f"what answers as {server} is no Kubernetes") from None


def _reached(pods: list[Any], counts: dict[str, int], report: Any) -> bool:
    done = total = 0
    for role, count in counts.items():
        own = [pod for pod in pods if role_of(pod) == role]
        done += min(count, sum(map(is_ready, own)))
        total += max(count, len(own))
    report(done, total)
    return done == total


def _name(found: Any) -> str:
    return str(found.metadata.name)


def _status_message(body: str | bytes | None) -> str:
    """The words of a Kubernetes `Status`, which the API server refuses with; empty for anything else."""
    try:
        raw = json.loads(body or "")
    except (ValueError, RecursionError):
        return ""
    if not isinstance(raw, dict) or raw.get("kind") != "Status":
        return ""
    return str(raw.get("message") or raw.get("reason") or "no words")


def _innermost(error: BaseException) -> str:
    """urllib3 wraps what went wrong in the story of its attempts."""
    reason = getattr(error, "reason", None)
    return _innermost(reason) if isinstance(reason, BaseException) else str(error)
