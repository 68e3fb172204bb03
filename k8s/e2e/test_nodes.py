"""Nodes and the control plane fail under streams. The last node runs one expert pod, whose experts have replicas."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator

import pytest

from k8s.e2e.build import NotSupported
from k8s.e2e.cluster import Cluster, until
from k8s.e2e.conftest import Disturb
from k8s.e2e.streams import Streams

LABEL = "caracal-e2e"
ROLES = {"router": 2, "attention": 2, "expert": 3}
STALL_MS = 1000


@pytest.fixture(scope="module")
def nodes(cluster: Cluster, undisturbed: dict[str, str]) -> Iterator[list[str]]:
    """Yields three nodes: routers, attention workers and Redis run on the first two, an expert pod on each node."""
    names = sorted(node["metadata"]["name"] for node in cluster.get("nodes")["items"])
    names = [name for name in names if "control-plane" not in name]
    if len(names) < 3:
        pytest.skip(f"three nodes are needed, there are {names}")
    for name, value in zip(names, ("all", "all", "experts"), strict=False):
        cluster.kubectl("label", "node", name, f"{LABEL}={value}", "--overwrite")
    selectors = {f"{role}__nodeSelector__{LABEL}": "all" for role in ("router", "attention", "redis")}
    constraint = "expert.topologySpreadConstraints[0]"
    spread = {
        f"{constraint}.maxSkew": 1,
        f"{constraint}.topologyKey": "kubernetes.io/hostname",
        f"{constraint}.whenUnsatisfiable": "DoNotSchedule",
        f"{constraint}.labelSelector.matchLabels.app\\.kubernetes\\.io/component": "expert",
    }
    replicas = {f"{role}__initialReplicas": count for role, count in ROLES.items()}
    cluster.install("upgrade", placement__replicas=2, **replicas, **selectors, **spread)
    cluster.wait_for_rollouts()
    for role, count in ROLES.items():
        cluster.scale(role, count)
    yield names[:3]
    cluster.install("upgrade", **replicas)
    cluster.wait_for_rollouts()
    for name in names:
        cluster.kubectl("label", "node", name, f"{LABEL}-")


def test_a_node_is_drained(cluster: Cluster, nodes: list[str], disturbed: Disturb) -> None:
    """`kubectl drain` respects disruption budgets; an evicted StatefulSet pod is scheduled again with the node."""

    def drain(streams: Streams) -> None:
        cluster.kubectl("drain", nodes[1], "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=240s")
        streams.wait_for_answers(1)
        cluster.kubectl("uncordon", nodes[1])
        cluster.wait_for_pods(**ROLES)
        streams.wait_for_answers(1)

    disturbed("node drained", drain, nodes[0])


def test_the_api_server_is_killed(cluster: Cluster, nodes: list[str], disturbed: Disturb) -> None:
    def kill(streams: Streams) -> None:
        try:
            cluster.target.kill_api_server()
        except NotSupported as error:
            pytest.skip(str(error))
        until(lambda: cluster.get("nodes"), "the API server never came back")
        streams.wait_for_answers(2)

    disturbed("API server killed", kill, nodes[0])


def test_a_node_with_replicated_experts_loses_power(cluster: Cluster, nodes: list[str], disturbed: Disturb) -> None:
    """No expert was on that node alone, so that no stream waits for one to be loaded."""
    on_it = [p["metadata"]["name"] for role in ROLES for p in cluster.pods(role) if p["spec"]["nodeName"] == nodes[2]]
    assert len(on_it) == 1
    assert "-expert-" in on_it[0]
    unplaced: list[float] = []

    def power_off(streams: Streams) -> None:
        try:
            cluster.target.power_off(nodes[2])
        except NotSupported as error:
            pytest.skip(str(error))
        for _ in range(20):  # the lease ends within 3 s
            unplaced.append(_unplaced(cluster))
            time.sleep(0.5)
        streams.wait_for_answers(2)
        cluster.target.power_on(nodes[2])
        cluster.kubectl("delete", "pod", on_it[0], "--force", "--grace-period=0", "--wait=false")
        until(lambda: "True" in _node_ready(cluster, nodes[2]), "the node never came back", 240)
        cluster.wait_for_pods(**ROLES)
        streams.wait_for_answers(1)

    answers = disturbed("node lost its power", power_off, nodes[0])
    assert set(unplaced) == {0.0}
    assert max(stall for answer in answers for stall in answer.stalls[1:]) <= STALL_MS


def _unplaced(cluster: Cluster) -> float:
    """Experts that are loaded on no worker, by the leader."""
    pages = [cluster.ask(pod["metadata"]["name"], ":8002/metrics") for pod in cluster.pods("router")]
    return sum(float(value) for page in pages for value in re.findall(r"^caracal_experts_unplaced (\S+)$", page, re.M))


def _node_ready(cluster: Cluster, name: str) -> list[str]:
    return [c["status"] for c in cluster.get("node", name)["status"]["conditions"] if c["type"] == "Ready"]
