"""While streams run, Redis gets a password and another one, and the release moves to another Redis."""

from __future__ import annotations

import base64
import time
from collections.abc import Iterator
from contextlib import contextmanager

from k8s.e2e.cluster import Cluster
from k8s.e2e.conftest import Disturb
from k8s.e2e.streams import Streams

RESTART_S = 60.0
FULL = {"router": 2, "attention": 2, "expert": 2}
FIRST, SECOND = "p@ss w/?rd#:%&=+['\"\\é", "another"


def _store(cluster: Cluster, **passwords: str) -> None:
    data = {key: base64.b64encode(password.encode()).decode() for key, password in passwords.items()}
    cluster.apply({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "redis-password"}, "data": data})


def _upgrade(cluster: Cluster, **values: object) -> None:
    cluster.install("upgrade", **values)
    cluster.wait_for_rollouts()
    _wait_for_redis(cluster)


def _wait_for_redis(cluster: Cluster) -> None:
    cluster.kubectl("rollout", "status", f"deployment/{cluster.release}-redis", "--timeout=120s")
    cluster.wait_for_pods(redis=1)  # the one before has gone


@contextmanager
def _only_redis_restarts(cluster: Cluster) -> Iterator[None]:
    """Another Redis pod and the same pods of all roles, within the time that a pod takes to start."""
    before, started = _pods(cluster), time.monotonic()
    yield
    took, after = time.monotonic() - started, _pods(cluster)
    assert {role for role in before if before[role] != after[role]} == {"redis"}
    assert took < RESTART_S, f"it took {took:.0f} s"


def _pods(cluster: Cluster) -> dict[str, set[str]]:
    """The pods of each role, by their uids, but for those that are leaving."""
    found = {role: [pod["metadata"] for pod in cluster.pods(role)] for role in (*FULL, "redis")}
    return {role: {one["uid"] for one in own if "deletionTimestamp" not in one} for role, own in found.items()}


def test_redis_gets_a_password_and_another_one(cluster: Cluster, disturbed: Disturb) -> None:
    """In the steps of docs/runbooks.md."""
    for role, count in FULL.items():
        cluster.scale(role, count)
    secret = {"redis__existingSecret": "redis-password"}

    def first(streams: Streams) -> None:
        _store(cluster, password=FIRST)
        _upgrade(cluster, **secret, redis__requirePassword="false")
        with _only_redis_restarts(cluster):
            _upgrade(cluster, **secret)
        streams.wait_for_answers(1)

    def second(streams: Streams) -> None:
        _store(cluster, password=FIRST, previous=FIRST)
        with _only_redis_restarts(cluster):
            _upgrade(cluster, **secret, redis__previousSecretKey="previous")
        _store(cluster, password=SECOND, previous=FIRST)
        with _only_redis_restarts(cluster):
            cluster.kubectl("rollout", "restart", f"deployment/{cluster.release}-redis")
            _wait_for_redis(cluster)
        workloads = [f"deployment/{cluster.release}-router"]
        workloads += [f"statefulset/{cluster.release}-{role}" for role in ("attention", "expert")]
        cluster.kubectl("rollout", "restart", *workloads)
        cluster.wait_for_rollouts()
        with _only_redis_restarts(cluster):
            _upgrade(cluster, **secret)
        streams.wait_for_answers(1)

    disturbed("redis gets a password", first)  # in two rounds: the kubelet keeps 10 MiB of a pod's log
    disturbed("redis gets another password", second)
    redis = cluster.pods("redis")[0]["metadata"]["name"]
    assert "NOAUTH" in cluster.kubectl("exec", redis, "--", "python", "-c", _ASK), "whoever has no password stays out"
    _upgrade(cluster)


def _other_redis(cluster: Cluster) -> str:
    """Starts a Redis like the release's own, under a name of its own; returns its URL."""
    name, labels = "other-redis", {"app": "other-redis"}
    pods = cluster.get("deployment", f"{cluster.release}-redis")["spec"]["template"]["spec"]
    template = {"metadata": {"labels": labels}, "spec": pods}
    made = {"replicas": 1, "selector": {"matchLabels": labels}, "template": template}
    cluster.apply(
        {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}, "spec": made},
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": name},
            "spec": {"selector": labels, "ports": [{"port": 6379}]},
        },
    )
    cluster.kubectl("rollout", "status", f"deployment/{name}", "--timeout=120s")
    return f"redis://{name}:6379/0"


def test_the_release_moves_to_another_redis(cluster: Cluster, disturbed: Disturb) -> None:
    """In the steps of docs/runbooks.md."""
    for role, count in FULL.items():
        cluster.scale(role, count)
    there = _other_redis(cluster)

    def move(streams: Streams) -> None:
        _upgrade(cluster, nextRedis__url=there)
        cluster.kubectl("scale", f"deployment/{cluster.release}-redis", "--replicas=0")
        streams.wait_for_answers(2)
        cluster.install("upgrade", redis__enabled="false", externalRedis__url=there)
        cluster.wait_for_rollouts()
        streams.wait_for_answers(1)

    def back_out(streams: Streams) -> None:
        _upgrade(cluster, nextRedis__url=there)
        cluster.kubectl("scale", f"deployment/{cluster.release}-redis", "--replicas=0")
        streams.wait_for_answers(1)
        cluster.install("upgrade", nextRedis__url=there, logLevel="INFO")  # no conflict with whoever has scaled it
        cluster.wait_for_rollouts()
        assert cluster.get("deployment", f"{cluster.release}-redis")["spec"]["replicas"] == 0
        cluster.kubectl("scale", f"deployment/{cluster.release}-redis", "--replicas=1")
        _wait_for_redis(cluster)
        streams.wait_for_answers(1)
        _upgrade(cluster)
        streams.wait_for_answers(1)

    disturbed("release goes back to its redis", back_out)
    disturbed("release moves to another redis", move)
    _upgrade(cluster)
    cluster.kubectl("delete", "deployment/other-redis", "service/other-redis")


_ASK = """
import socket
with socket.create_connection(("127.0.0.1", 6379), 5) as connection:
    connection.sendall(b"DBSIZE\\r\\n")
    print(connection.recv(200).decode())
"""
