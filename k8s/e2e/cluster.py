"""kubectl and helm against the cluster under test, in one namespace under PodSecurity `restricted`."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import yaml

from k8s.e2e.targets import Target
from k8s.image.packages import REPOSITORY
from k8s.tools.values import CHART, default_image

WAIT_S = 120.0
OWN = "caracal-e2e/own"  # label of namespaces that these tests have made: no other one is touched
CLI = "from services.cli.app import main; main()"
GET = """
import sys, urllib.error, urllib.request
try:
    print(urllib.request.urlopen(sys.argv[1]).read().decode())
except urllib.error.HTTPError as error:
    print(error.code, error.read().decode())
"""


class NotOurs(Exception):
    """A namespace of that name exists, and these tests have not made it."""


def until(condition: Callable[[], object], message: str | Callable[[], str], timeout_s: float = WAIT_S) -> float:
    """Waits for the condition; returns the seconds it took. A RuntimeError of it, as from kubectl, counts as false.

    `message`: what is wrong when it never holds; called only then.
    """
    started, last = time.monotonic(), ""
    while True:
        try:
            if condition():
                return time.monotonic() - started
        except RuntimeError as error:
            last = str(error)
        if time.monotonic() - started > timeout_s:
            why = message if isinstance(message, str) else message()
            raise AssertionError(f"{why} ({last})" if last else why)
        time.sleep(0.3)


@dataclass
class Cluster:
    """The release `caracal` in a namespace of its own."""

    target: Target
    namespace: str = "caracal-e2e"
    release: str = "caracal"
    helm_program: str = "helm"
    security: str = "restricted"  # PodSecurity of the namespace

    @property
    def image(self) -> str:
        return self.target.image

    def create_namespace(self) -> None:
        """Makes it, once an own one of that name has gone. Raises NotOurs."""
        until(lambda: not self._is_leaving(), f"namespace {self.namespace} never goes", WAIT_S * 2)
        labels = {"pod-security.kubernetes.io/enforce": self.security, OWN: "yes"}
        metadata = {"name": self.namespace, "labels": labels}
        if not self._labels():
            self.kubectl(
                "create",
                "-f",
                "-",
                stdin=yaml.safe_dump({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}),
            )
        until(lambda: self.get("serviceaccount", "default"), "the namespace got no service account")

    def remove(self) -> None:
        """Uninstalls the release, if there is one, and deletes the namespace with all that is in it. Raises NotOurs."""
        if not self._labels():
            return
        with suppress(RuntimeError):  # not installed
            self.helm("uninstall", self.release)
        self.kubectl("delete", "namespace", self.namespace, "--wait=false")
        with suppress(RuntimeError):
            self.kubectl("delete", "pods", "--all", "--grace-period=0", "--force", "--wait=false")

    def _namespace(self) -> dict[str, Any]:
        """Its metadata; empty when there is none."""
        found = json.loads(self.kubectl("get", "namespace", self.namespace, "--ignore-not-found", "-o", "json") or "{}")
        return dict(found.get("metadata", {}))

    def _labels(self) -> dict[str, str]:
        """Those of the namespace; empty when there is none. Raises NotOurs when these tests have not made it."""
        labels = dict(self._namespace().get("labels", {}))
        if labels and OWN not in labels:
            raise NotOurs(f"namespace {self.namespace} exists, and is not of these tests: they leave it alone")
        return labels

    def _is_leaving(self) -> bool:
        return "deletionTimestamp" in self._namespace()

    def kubectl(self, *arguments: str, stdin: str = "") -> str:
        """Returns kubectl's output. Raises RuntimeError with its error output."""
        return self._run(["kubectl", "-n", self.namespace, *arguments], stdin)

    def helm(self, *arguments: str) -> str:
        return self._run([self.helm_program, "-n", self.namespace, *arguments], "")

    def apply(self, *objects: dict[str, Any]) -> None:
        self.kubectl("apply", "-f", "-", stdin=yaml.safe_dump_all(objects))

    def get(self, *what: str) -> dict[str, Any]:
        output = () if "--raw" in what else ("-o", "json")
        found: dict[str, Any] = json.loads(self.kubectl("get", *what, *output))
        return found

    def install(self, command: str, *more: str, **values: object) -> None:
        """Runs `helm install` or `helm upgrade` with profile cpu-tiny, one expert pod, and `values`; __ in their names
        stands for a dot. `more`: further flags."""
        repository, _, tag = self.image.rpartition(":")
        own = {} if self.image == default_image() else {"image__repository": repository, "image__tag": tag}
        given = own | {"expert__initialReplicas": 1} | values
        sets = [f"{name.replace('__', '.')}={value}" for name, value in given.items()]
        profile = str(CHART / "profiles/cpu-tiny.yaml")
        flags = [part for one in sets for part in ("--set", one)]
        self.helm(command, self.release, str(CHART), "-f", profile, *flags, *more)

    def caracal(self, *arguments: str) -> str:
        """Returns the output of `caracal` with --context and --namespace of this release."""
        context = self.kubectl("config", "current-context").strip()
        path = ":".join(str(REPOSITORY / folder) for folder in ("", "kernels", "proto"))
        command = [
            *self.target.prefix(),
            "env",
            "COLUMNS=1000",
            f"PYTHONPATH={path}",
            sys.executable,
            "-c",
            CLI,
            *arguments,
        ]
        command += ["--context", context, "--namespace", self.namespace]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        if done.returncode:
            raise RuntimeError(f"caracal {' '.join(arguments)}: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout

    def replicas(self, role: str) -> int:
        """The number of pods that the role's workload is to have."""
        kind = "deployment" if role == "router" else "statefulset"
        return int(self.get(kind, f"{self.release}-{role}")["spec"]["replicas"])

    def pods(self, role: str) -> list[dict[str, Any]]:
        selector = f"app.kubernetes.io/instance={self.release},app.kubernetes.io/component={role}"
        items = self.get("pods", "-l", selector)["items"]
        return [pod for pod in items if pod["status"].get("phase") in ("Pending", "Running")]

    def wait_for_pods(self, **counts: int) -> float:
        """Waits until each role has exactly so many pods, all ready, none terminating; returns the seconds it took."""
        return until(
            lambda: all([_ready(pod) for pod in self.pods(role)] == [True] * n for role, n in counts.items()),
            f"the roles never had {counts} ready pods",
            WAIT_S * 2,
        )

    def ask(self, pod: str, path: str) -> str:
        """Returns the response to a GET of `:port/path`, sent from inside the pod: workers listen only on its
        address."""
        address = self.get("pod", pod)["status"]["podIP"]
        return self.kubectl("exec", pod, "--", "python", "-c", GET, f"http://{address}{path}")

    def scale(self, role: str, replicas: int) -> float:
        """Runs `kubectl scale`; returns the seconds until the pods are ready."""
        kind = "deployment" if role == "router" else "statefulset"
        self.kubectl("scale", f"{kind}/{self.release}-{role}", f"--replicas={replicas}")
        return self.wait_for_pods(**{role: replicas})

    def wait_for_rollouts(self) -> None:
        """Waits for the rollouts of all roles."""
        for workload in ("deployment/{}-router", "statefulset/{}-attention", "statefulset/{}-expert"):
            self.kubectl("rollout", "status", workload.format(self.release), "--timeout=240s")

    def _run(self, arguments: list[str], stdin: str) -> str:
        command = [*self.target.command(arguments[0]), *arguments[1:]]
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=300, check=False)
        if done.returncode:
            raise RuntimeError(f"{' '.join(arguments[:5])}: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout


def _ready(pod: dict[str, Any]) -> bool:
    conditions = {one["type"]: one["status"] for one in pod["status"].get("conditions", [])}
    return conditions.get("Ready") == "True" and "deletionTimestamp" not in pod["metadata"]


@contextmanager
def temporary(
    target: Target, namespace: str, helm_program: str = "helm", security: str = "restricted"
) -> Iterator[Cluster]:
    """Yields a namespace for a release of its own, which goes with it however the test ends."""
    made = Cluster(target, namespace, helm_program=helm_program, security=security)
    made.create_namespace()
    try:
        yield made
    finally:
        made.remove()
