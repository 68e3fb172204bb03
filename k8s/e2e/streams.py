"""Sends requests from a pod in the cluster during a test, and collects their answers."""

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
    """One request: the digest of its answer, or the error; and the milliseconds from its start to each token."""

    caller: str
    digest: str
    error: str
    started: float
    token_times: tuple[float, ...]

    @property
    def stalls(self) -> list[float]:
        """Milliseconds between tokens, beginning with the time to the first token."""
        return [b - a for a, b in zip((0.0, *self.token_times), self.token_times, strict=False)]


@dataclass(frozen=True)
class Stalls:
    """Number of requests, and milliseconds between two tokens of a stream; first tokens are counted separately."""

    requests: int
    failed: int
    p50: float
    p99: float
    worst: float
    worst_first: float

    @classmethod
    def of(cls, answers: list[Answer]) -> Stalls:
        between = sorted(stall for answer in answers for stall in answer.stalls[1:]) or [0.0]
        firsts = [answer.stalls[0] for answer in answers if answer.token_times] or [0.0]
        return cls(
            requests=len(answers),
            failed=sum(bool(answer.error) for answer in answers),
            p50=statistics.median(between),
            p99=between[min(len(between) - 1, int(0.99 * len(between)))],
            worst=between[-1],
            worst_first=max(firsts),
        )


class Streams:
    """The streams of one client pod: `begin`, disturb the cluster, `end`."""

    def __init__(self, cluster: Cluster, node: str = "") -> None:
        self._cluster, self._node = cluster, node
        self._name = ""

    def begin(self, name: str, rounds: int = 0) -> None:
        """Starts the pod; without `rounds`, returns when every caller has its first answer."""
        self._name = f"client-{name}"
        self._cluster.apply(_script(), self._pod(rounds))
        if not rounds:
            self.wait_for_answers(1)

    def wait_for_answers(self, rounds: int) -> None:
        """Waits until every caller has `rounds` further answers."""
        before = self._counts()
        until(
            lambda: (
                all(n >= before.get(caller, 0) + rounds for caller, n in self._counts().items())
                and len(self._counts()) >= GRPC_CALLERS + 2
            ),
            f"{self._name}: answers are missing: at first {before}, then {self._counts()}",
            END_S,
        )

    def end(self) -> list[Answer]:
        """Lets every caller finish its request; returns all answers in the order in which they ended."""
        until(self._request_stop, f"{self._name} cannot be stopped")
        return self.finish()

    def finish(self) -> list[Answer]:
        """Waits until the pod has completed; returns all answers."""
        until(lambda: self._phase() in ("Succeeded", "Failed"), f"{self._name} does not end", END_S)
        answers = self._answers()
        assert self._phase() == "Succeeded", self._cluster.kubectl("logs", self._name, "--tail=20")
        self._cluster.kubectl("delete", "pod", self._name, "--wait=false")
        return answers

    def _request_stop(self) -> bool:
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
        return [Answer(**{**one, "token_times": tuple(one["token_times"])}) for one in raw]

    def _pod(self, rounds: int) -> dict[str, Any]:
        safe = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}, "readOnlyRootFilesystem": True}
        # By address: the failed node may run the cluster's DNS server, which is not under test.
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
