"""One release of the chart on Kubernetes, through the official client (extra `k8s`)."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from services.cli.gateway_client import key_headers, overview_of, reason_of
from services.cli.kube.diagnosis import grouped, is_ready, keeping_back, not_ready_reason, role_of
from services.cli.kube.events import Warnings
from services.cli.kube.jobs import failing
from services.cli.kube.kubeconfig import connect, one_line
from services.cli.run_state import NoCluster
from services.cli.scale import Outcome
from services.membership.overview import Overview
from services.process.settings import InvalidSetting
from services.process.telemetry import progress

PART_OF, INSTANCE = "app.kubernetes.io/part-of=caracal", "app.kubernetes.io/instance"
ROLES = ("router", "attention", "expert", "redis")  # not the pods of `helm test`
TIMEOUT_S = (3.0, 10.0)  # to connect, to be answered
FOLLOW_TIMEOUT_S = 30 * 86400.0  # without a new line; the client takes no None
POLL_S, REPORT_S = 0.5, 3.0
ADMIN, ADMIN_PORT = "admin", 8002  # name of a router's port in the chart; number if no port has that name
MAX_PODS = 10_000  # a larger number is a typing error


def check_pods(role: str, count: int) -> None:
    """Raises InvalidSetting for a count that a release cannot have."""
    if count < 0:
        raise InvalidSetting(f"{role}={count}: must be at least 0")
    if count > MAX_PODS:
        raise InvalidSetting(f"{role}={count}: more than {MAX_PODS} pods are not supported")


class Release:
    """One release in a namespace of the cluster that `context` of the kubeconfig names.

    Every call to the API server has a timeout; methods raise NoCluster when it rejects a call or does not answer.
    """

    def __init__(
        self, context: str, namespace: str = "", release: str = "", timeout_s: tuple[float, float] = TIMEOUT_S
    ) -> None:
        """Raises NoCluster without the client, the context or the release, or when several releases could be meant."""
        self._timeout_s = timeout_s
        api, own = connect(context)
        from kubernetes import client

        self._core, self._apps, self._batch = client.CoreV1Api(api), client.AppsV1Api(api), client.BatchV1Api(api)
        self.namespace = namespace or own or "default"
        self.context = context
        self.name = self._choose(release)

    def scale(self, counts: dict[str, int], wait_s: float) -> Outcome:
        """Sets the replicas and waits at most `wait_s` until as many pods of each role are ready and none terminates.

        Raises InvalidSetting when that is not reached in time, or somebody else changes the numbers meanwhile.
        """
        started = time.monotonic()
        names = {role: self._stateful_set(role).metadata.name for role in counts}
        for role, count in counts.items():
            body = {"spec": {"replicas": count}}
            with self._calls():
                self._apps.patch_namespaced_stateful_set_scale(
                    names[role], self.namespace, body, _request_timeout=self._timeout_s
                )
        if not wait_s:
            return Outcome(counts, None)
        self._wait(counts, started, wait_s)
        return Outcome(counts, time.monotonic() - started)

    def _wait(self, counts: dict[str, int], started: float, wait_s: float) -> None:
        reported, report_at = "", started + REPORT_S
        with progress("scaling") as report:
            while not _reached(pods := self.pods(), counts, report):
                for role, count in counts.items():
                    if (now := self._stateful_set(role).spec.replicas) != count:
                        raise InvalidSetting(f"somebody else set {role}={now}: no longer waiting for {role}={count}")
                if time.monotonic() - started > wait_s:
                    raise InvalidSetting(
                        f"not reached within {wait_s:g} s; {self._why_not_reached(pods, counts) or self._hint()}"
                    )
                if time.monotonic() > report_at:
                    report_at = time.monotonic() + REPORT_S
                    if (why := self._why_not_reached(pods, counts)) not in ("", reported):
                        reported = why
                        print(f"caracal: waiting for {why}", file=sys.stderr)
                time.sleep(POLL_S)

    def workloads(self) -> list[Any]:
        """The release's StatefulSets and Deployments as API objects, sorted by name."""
        return sorted(
            self._list(self._apps.list_namespaced_stateful_set, self.name)
            + self._list(self._apps.list_namespaced_deployment, self.name),
            key=_name,
        )

    def pods(self) -> list[Any]:
        """The release's pods as API objects, sorted by role and name."""
        found = self._list(self._core.list_namespaced_pod, self.name)
        return sorted((pod for pod in found if role_of(pod) in ROLES), key=lambda pod: (role_of(pod), _name(pod)))

    def reasons(self, workloads: list[Any], pods: list[Any]) -> dict[str, str]:
        """Why each workload has fewer pods than it should, and why each pod that is not ready is not, by their names.

        Events are used if RBAC lets us read them.
        """
        waiting = [pod for pod in pods if not is_ready(pod)]
        lacking = [one for one in workloads if (one.status.ready_replicas or 0) != (one.spec.replicas or 0)]
        warnings = self._warnings() if waiting or lacking else Warnings()
        found = {_name(one): warnings.why_not_created(one) for one in lacking}
        return found | {_name(pod): not_ready_reason(pod, warnings.of_pod(pod)) for pod in waiting}

    def failing_jobs(self) -> dict[str, str]:
        """Why Jobs of the release fail, by their names; empty where RBAC does not let us list them."""
        jobs: list[Any] = []
        with suppress(NoCluster):
            jobs = self._list(self._batch.list_namespaced_job, self.name)
        if not [job for job in jobs if not job.status.succeeded]:
            return {}
        return failing(jobs, self._list(self._core.list_namespaced_pod, self.name), self._warnings())

    def _warnings(self) -> Warnings:
        """None where RBAC does not let us read Events."""
        with suppress(NoCluster), self._calls():
            events = self._core.list_namespaced_event(
                self.namespace, field_selector="type=Warning", _request_timeout=self._timeout_s
            )
            return Warnings(events.items)
        return Warnings()

    def log(self, pod: str, tail: int | None, since_s: int | None, *, follow: bool = False) -> Iterator[str]:
        """Yields lines of a pod's log: the last `tail`, of the last `since_s` seconds; with `follow`, until it ends."""
        limits = {"tail_lines": tail, "since_seconds": since_s}
        given = {name: value for name, value in limits.items() if value is not None}
        timeout = (self._timeout_s[0], FOLLOW_TIMEOUT_S) if follow else self._timeout_s
        with self._calls():
            answer = self._core.read_namespaced_pod_log(
                pod, self.namespace, follow=follow, _preload_content=False, _request_timeout=timeout, **given
            )
            rest = b""
            for chunk in answer.stream(amt=None, decode_content=True):
                *lines, rest = (rest + chunk).split(b"\n")
                yield from (line.decode(errors="replace") for line in lines)
            if rest:
                yield rest.decode(errors="replace")

    def overview(self, router: Any) -> Overview:
        """Reads /cluster of the router in that pod, through the API server's proxy."""
        status, text = self._ask(router, "cluster")
        return overview_of(text, status, _address(router))

    def not_ready(self, router: Any) -> str:
        """Reads from /ready of the router in that pod why it is not ready, with its warning."""
        status, text = self._ask(router, "ready")
        return reason_of(text, status, _address(router)) or "its /ready says that it is"

    def _ask(self, pod: Any, path: str) -> tuple[int, str | bytes]:
        from kubernetes.client import ApiException

        with self._calls():
            try:
                answer = self._core.connect_get_namespaced_pod_proxy_with_path(
                    _address(pod),
                    self.namespace,
                    path,
                    _preload_content=False,
                    _request_timeout=self._timeout_s,
                    _headers=key_headers() or None,
                )
                return answer.status, answer.data
            except ApiException as error:
                if not error.body or _status_message(error.body):
                    raise
                return error.status, error.body  # the response of the router itself

    def _why_not_reached(self, pods: list[Any], counts: dict[str, int]) -> str:
        """The first reason of a workload that is scaled, or of the pods of it that keep it from its number."""
        workloads = [one for one in self.workloads() if role_of(one) in counts]
        return next(iter(grouped(self.reasons(workloads, keeping_back(pods, counts)))), "")

    def _hint(self) -> str:
        return f"see `caracal status --context {self.context}`"

    def _stateful_set(self, role: str) -> Any:
        found = [one for one in self._list(self._apps.list_namespaced_stateful_set, self.name) if role_of(one) == role]
        if len(found) == 1:
            return found[0]
        names = ", ".join(map(_name, found))
        problem = f"several StatefulSets of {role} workers: {names}" if found else f"no {role} StatefulSet"
        raise NoCluster(f"release {self.name} in namespace {self.namespace} has {problem}")

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
            return list(ask(self.namespace, label_selector=selector, _request_timeout=self._timeout_s).items)

    @contextmanager
    def _calls(self) -> Iterator[None]:
        """Turns the errors of calls to the API server into NoCluster, with a message of one line."""
        from kubernetes.client import ApiException
        from urllib3.exceptions import HTTPError

        server = f"the API server of {self.context}"
        try:
            yield
        except ApiException as error:
            why = one_line(_status_message(error.body) or error.reason)
            raise NoCluster(f"{server} answers {error.status}: {why}" if error.status else f"{server}: {why}") from None
        except (HTTPError, OSError) as error:
            raise NoCluster(f"{server} does not answer{_why(error, self._timeout_s)}") from None
        except ValueError:
            raise NoCluster(f"{server} does not answer like Kubernetes") from None


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


def _address(router: Any) -> str:
    """NAME:PORT of a router's pod, in the form that the API server's proxy takes."""
    ports = [port for one in router.spec.containers for port in one.ports or () if port.name == ADMIN]
    return f"{_name(router)}:{ports[0].container_port if ports else ADMIN_PORT}"


def _status_message(body: str | bytes | None) -> str:
    """The message of a Kubernetes `Status` object, the API server's form of an error; empty for anything else."""
    try:
        raw = json.loads(body or "")
    except (ValueError, RecursionError):
        return ""
    if not isinstance(raw, dict) or raw.get("kind") != "Status":
        return ""
    return str(raw.get("message") or raw.get("reason") or "no message")


def _why(error: BaseException, timeout_s: tuple[float, float]) -> str:
    """The end of a message, from the cause in urllib3's error: its own text has all attempts and object addresses."""
    from urllib3.exceptions import ConnectTimeoutError, NewConnectionError, ReadTimeoutError

    while True:
        if isinstance(error, ConnectTimeoutError) and not isinstance(error, NewConnectionError):
            return f" within {timeout_s[0]:g} s"
        if isinstance(error, TimeoutError | ReadTimeoutError):
            return f" within {timeout_s[1]:g} s"
        inner = getattr(error, "reason", None) or error.__cause__
        if not isinstance(inner, BaseException):
            return f": {one_line(getattr(error, 'strerror', None) or error)}"
        error = inner
