"""Nodes and the control plane fail under streams. The last node runs one expert pod, whose experts have replicas."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from k8s.e2e.build import NotSupported
from k8s.e2e.cluster import Cluster, until
from k8s.e2e.conftest import Disturb
from k8s.e2e.lost_experts import STALL_MS, as_many_on_each_node, lose_node, wait_for_placement, worst_stall
from k8s.e2e.nodes import labelled, worker_nodes
from k8s.e2e.streams import Streams

LABEL = "caracal-e2e"
ROLES = {"router": 2, "attention": 2, "expert": 3}


@pytest.fixture(scope="module")
def nodes(cluster: Cluster, undisturbed: dict[str, str]) -> Iterator[list[str]]:
    """Yields three nodes: routers, attention workers and Redis run on the first two, an expert pod on each node."""
    names = worker_nodes(cluster, 3)
    with labelled(cluster, LABEL, dict(zip(names[:3], ("all", "all", "experts"), strict=True))):
        selectors = {f"{role}__nodeSelector__{LABEL}": "all" for role in ("router", "attention", "redis")}
        replicas = {f"{role}__initialReplicas": count for role, count in ROLES.items()}
        cluster.install("upgrade", placement__replicas=2, **replicas, **selectors, **as_many_on_each_node())
        cluster.wait_for_rollouts()
        for role, count in ROLES.items():
            cluster.scale(role, count)
        wait_for_placement(cluster)
        yield names[:3]
        cluster.install("upgrade", **replicas)
        cluster.wait_for_rollouts()


def test_a_node_is_drained(cluster: Cluster, nodes: list[str], disturbed: Disturb) -> None:
    """`kubectl drain` respects disruption budgets; an evicted StatefulSet pod is scheduled again with the node."""

    def drain(streams: Streams) -> None:
        try:
            cluster.kubectl("drain", nodes[1], "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=240s")
            streams.wait_for_answers(1)
        finally:
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
    wait_for_placement(cluster)
    answers = disturbed("node lost its power", lambda streams: lose_node(cluster, nodes[2], streams, ROLES), nodes[0])
    assert worst_stall(answers) <= STALL_MS
