"""Sends requests from a pod in the cluster during a test, and collects their answers."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

from k8s.e2e.cluster import Cluster, until
from k8s.e2e.records import Answer, Records

CLIENT = Path(__file__).with_name("client.py")
END_S = 150.0


class Streams:
    """The streams of one client pod: `begin`, disturb the cluster, `end`. `tokens`: of each answer; 0 = the client's
    default."""

    def __init__(self, cluster: Cluster, node: str = "", tokens: int = 0) -> None:
        self._cluster, self._node, self._tokens = cluster, node, tokens
        self._name = ""
        self._records = Records()

    def begin(self, name: str, rounds: int = 0) -> None:
        """Starts the pod; without `rounds`, returns when every caller has its first answer."""
        self._name, self._records = f"client-{name}", Records()
        self._cluster.apply(_script(), self._pod(rounds))
        if not rounds:
            self.wait_for_answers(1)

    def wait_for_answers(self, rounds: int) -> None:
        """Waits until every caller has `rounds` further answers."""
        before = self.counts()

        def arrived() -> bool:
            self._read_log()
            return all(count >= before[caller] + rounds for caller, count in self._records.counts().items())

        until(
            arrived,
            lambda: f"{self._name}: answers are missing: at first {before}, then {self._records.counts()}",
            END_S,
        )

    def counts(self) -> dict[str, int]:
        """Answers so far of each caller."""
        with suppress(RuntimeError):  # not started yet
            self._read_log()
        return self._records.counts()

    def end(self) -> list[Answer]:
        """Lets every caller finish its request; returns all answers in the order in which they began."""
        until(self._request_stop, f"{self._name} cannot be stopped")
        return self.finish()

    def finish(self) -> list[Answer]:
        """Waits until the pod has completed; returns all answers, and fails where one of them is missing."""
        until(lambda: self._phase() in ("Succeeded", "Failed"), f"{self._name} does not end", END_S)
        until(self._read_log, f"the log of {self._name} cannot be read")
        assert self._phase() == "Succeeded", self._cluster.kubectl("logs", self._name, "--tail=20")
        assert not (missing := self._records.missing()), f"{self._name}: {missing}"
        self._cluster.kubectl("delete", "pod", self._name, "--wait=false")
        return self._records.answers()

    def _read_log(self) -> bool:
        """Raises RuntimeError while there is none."""
        self._records.read(self._cluster.kubectl("logs", self._name))
        return True

    def _request_stop(self) -> bool:
        self._cluster.kubectl("exec", self._name, "--", "python", "-c", "open('/tmp/stop', 'w')")
        return True

    def _phase(self) -> str:
        return str(self._cluster.get("pod", self._name)["status"].get("phase", ""))

    def _pod(self, rounds: int) -> dict[str, Any]:
        safe = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}, "readOnlyRootFilesystem": True}
        # By address: the node that fails may run the cluster's DNS server, which is not under test.
        router = str(self._cluster.get("service", f"{self._cluster.release}-router")["spec"]["clusterIP"])
        variables = {"ROUTER": router, "MODEL": "caracal-tiny", "ROUNDS": str(rounds)}
        variables |= {"TOKENS": str(self._tokens)} if self._tokens else {}
        container = {
            "name": "client",
            "image": self._cluster.image,
            "imagePullPolicy": "IfNotPresent",
            "command": ["python", "/client/client.py"],
            "env": [{"name": name, "value": value} for name, value in variables.items()],
            "resources": {"requests": {"cpu": "50m", "memory": "128Mi"}},
            "securityContext": safe,
            "volumeMounts": [{"name": "client", "mountPath": "/client"}, {"name": "tmp", "mountPath": "/tmp"}],
        }
        spec = {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "terminationGracePeriodSeconds": 1,
            "nodeSelector": {"kubernetes.io/hostname": self._node} if self._node else {},
            "securityContext": {"runAsNonRoot": True, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [container],
            "volumes": [{"name": "client", "configMap": {"name": "client"}}, {"name": "tmp", "emptyDir": {}}],
        }
        return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": self._name}, "spec": spec}


def _script() -> dict[str, Any]:
    data = {"client.py": CLIENT.read_text()}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "client"}, "data": data}
