"""Requests from a pod in the cluster while a test does something to it, and what became of them."""

from __future__ import annotations

import json
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from k8s.e2e.cluster import Cluster, until

CLIENT = Path(__file__).with_name("client.py")
GRPC_CALLERS = 8
END_S = 150.0


@dataclass(frozen=True)
class Answer:
    """One request: the digest of what came, or the error; and milliseconds from its start to each token."""

    caller: str
    digest: str
    error: str
    started: float
    arrivals: tuple[float, ...]

    @property
    def stalls(self) -> list[float]:
        """Milliseconds between tokens; the wait for the first comes first."""
        return [b - a for a, b in zip((0.0, *self.arrivals), self.arrivals, strict=False)]


@dataclass(frozen=True)
class Stalls:
    """Milliseconds between two tokens of a stream (first tokens apart), and how many requests there were."""

    requests: int
    failed: int
    p50: float
    p99: float
    worst: float
    worst_first: float

    @classmethod
    def of(cls, answers: list[Answer]) -> Stalls:
        between = sorted(stall for answer in answers for stall in answer.stalls[1:]) or [0.0]
        firsts = [answer.stalls[0] for answer in answers if answer.arrivals] or [0.0]
        return cls(
            requests=len(answers),
            failed=sum(bool(answer.error) for answer in answers),
            p50=statistics.median(between),
            p99=between[min(len(between) - 1, int(0.99 * len(between)))],
            worst=between[-1],
            worst_first=max(firsts),
        )


class Streams:
    """A client pod. `begin` it, do something, `end` it."""

    def __init__(self, cluster: Cluster, node: str = "") -> None:
        self._cluster, self._node = cluster, node
        self._name = ""

    def begin(self, name: str, rounds: int = 0) -> None:
        """Returns when every caller has had its first answer."""
        self._name = f"client-{name}"
        self._cluster.apply(_script(), self._pod(rounds))
        if not rounds:
            self.more(1)

    def more(self, rounds: int) -> None:
        """Waits until every caller had so many answers more."""
        before = self._counts()
        until(
            lambda: (
                all(n >= before.get(caller, 0) + rounds for caller, n in self._counts().items())
                and len(self._counts()) >= GRPC_CALLERS + 2
            ),
            f"{self._name}: no answers come; at first {before}, then {self._counts()}",
            END_S,
        )

    def end(self) -> list[Answer]:
        """Lets every caller finish; returns all answers in the order in which they ended."""
        until(self._told_to_stop, f"{self._name} cannot be told to stop")
        return self.finish()

    def finish(self) -> list[Answer]:
        """Waits for the pod's own end."""
        until(lambda: self._phase() in ("Succeeded", "Failed"), f"{self._name} does not end", END_S)
        answers = self._answers()
        assert self._phase() == "Succeeded", self._cluster.kubectl("logs", self._name, "--tail=20")
        self._cluster.kubectl("delete", "pod", self._name, "--wait=false")
        return answers

    def _told_to_stop(self) -> bool:
        self._cluster.kubectl("exec", self._name, "--", "python", "-c", "open('/tmp/stop', 'w')")
        return True

    def _phase(self) -> str:
        return str(self._cluster.get("pod", self._name)["status"].get("phase", ""))

    def _counts(self) -> dict[str, int]:
        counts: dict[str, int] = {}
        for answer in self._answers():
            counts[answer.caller] = counts.get(answer.caller, 0) + 1
        return counts

    def _answers(self) -> list[Answer]:
        try:
            lines = self._cluster.kubectl("logs", self._name).splitlines()
        except RuntimeError:  # not started yet
            return []
        raw = [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]
        return [Answer(**{**one, "arrivals": tuple(one["arrivals"])}) for one in raw]

    def _pod(self, rounds: int) -> dict[str, Any]:
        safe = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}, "readOnlyRootFilesystem": True}
        # By address: when a node goes, so may the cluster's DNS server, which is not what is tested.
        router = str(self._cluster.get("service", f"{self._cluster.release}-router")["spec"]["clusterIP"])
        variables = {"ROUTER": router, "MODEL": "caracal-tiny", "ROUNDS": str(rounds)}
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
