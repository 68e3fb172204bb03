"""Where a real scheduler puts pods, and what a node's loss takes: by node always, by zone where nodes have one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest

from k8s.e2e.cluster import Cluster, temporary, until
from k8s.e2e.nodes import cordoned, labelled, worker_nodes
from k8s.e2e.targets import Target

ZONE = "topology.kubernetes.io/zone"
PODS = 4
VALUES = {"mtls__mode": "existing", "attention__initialReplicas": 1, "expert__replicas": PODS}


@pytest.fixture
def nodes(target: Target) -> Iterator[list[str]]:
    """Yields two nodes without zones; the others take no pods meanwhile."""
    cluster = Cluster(target)
    found = worker_nodes(cluster, 2)
    with cordoned(cluster, found[2:]):
        yield found[:2]


@pytest.fixture
def spread(target: Target) -> Iterator[Cluster]:
    """Yields a release whose pods are scheduled and wait for a certificate that nobody makes."""
    with temporary(target, "caracal-spread") as spread:
        spread.install("install", **VALUES)
        yield spread


def _on(cluster: Cluster) -> list[str]:
    """The node of each expert pod, as soon as all of them have one."""
    until(
        lambda: len([pod for pod in cluster.pods("expert") if pod["spec"].get("nodeName")]) == PODS,
        "pods are not scheduled",
    )
    return [pod["spec"]["nodeName"] for pod in cluster.pods("expert")]


def test_pods_spread_over_nodes_without_zones(nodes: list[str], spread: Cluster) -> None:
    assert sorted(Counter(_on(spread)).values()) == [PODS // 2, PODS // 2]


def test_pods_spread_over_zones_where_nodes_have_them(target: Target) -> None:
    """Two nodes in one zone and one in the other: each zone has half of the pods, the larger one a pod on each node."""
    plain = Cluster(target)
    zones = dict(zip(worker_nodes(plain, 3)[:3], ("a", "a", "b"), strict=True))
    with labelled(plain, ZONE, zones), temporary(target, "caracal-zoned") as zoned:
        zoned.install("install", **VALUES)
        on = _on(zoned)
        assert Counter(zones[node] for node in on) == {"a": PODS // 2, "b": PODS // 2}
        assert {node for node in on if zones[node] == "a"} == {node for node, zone in zones.items() if zone == "a"}
        for pod in zoned.pods("expert"):  # since Kubernetes 1.35: what CARACAL_ZONE is made of
            assert pod["metadata"]["labels"][ZONE] == zones[pod["spec"]["nodeName"]]
