"""Where a real scheduler puts pods, and what a node's loss takes: by node always, by zone where nodes have one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest

from k8s.e2e.cluster import Cluster, until
from k8s.e2e.targets import Target

ZONE = "topology.kubernetes.io/zone"
PODS = 4


@pytest.fixture
def nodes(target: Target) -> Iterator[list[str]]:
    """Yields two nodes without zones; the others take no pods meanwhile."""
    cluster = Cluster(target)
    found = sorted(
        node["metadata"]["name"]
        for node in cluster.get("nodes")["items"]
        if "control-plane" not in node["metadata"]["name"]
    )
    if len(found) < 2:
        pytest.skip(f"two nodes are needed, there are {found}")
    for name in found[2:]:
        cluster.kubectl("cordon", name)
    yield found[:2]
    for name in found[2:]:
        cluster.kubectl("uncordon", name)


@pytest.fixture
def spread(target: Target) -> Iterator[Cluster]:
    """Yields a release whose pods are scheduled and wait for a certificate that nobody makes."""
    spread = Cluster(target, "caracal-spread")
    spread.create_namespace()
    spread.install("install", mtls__mode="existing", attention__initialReplicas=1, expert__replicas=PODS)
    yield spread
    spread.helm("uninstall", spread.release)
    spread.kubectl("delete", "pods", "--all", "--grace-period=0", "--force")
    spread.kubectl("delete", "namespace", spread.namespace)


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
    names = sorted(node["metadata"]["name"] for node in plain.get("nodes")["items"])
    names = [name for name in names if "control-plane" not in name]
    if len(names) < 3:
        pytest.skip(f"three nodes are needed, there are {names}")
    zones = dict(zip(names[:3], ("a", "a", "b"), strict=True))
    for name, zone in zones.items():
        plain.kubectl("label", "node", name, f"{ZONE}={zone}", "--overwrite")
    try:
        zoned = Cluster(target, "caracal-zoned")
        zoned.create_namespace()
        zoned.install("install", mtls__mode="existing", attention__initialReplicas=1, expert__replicas=2)
        until(
            lambda: len([pod for pod in zoned.pods("expert") if pod["spec"].get("nodeName")]) == 2,
            "pods are not scheduled",
        )
        pods = zoned.pods("expert")
        assert sorted(zones[pod["spec"]["nodeName"]] for pod in pods) == ["a", "b"]
        for pod in pods:  # since Kubernetes 1.35: what CARACAL_ZONE is made of
            assert pod["metadata"]["labels"][ZONE] == zones[pod["spec"]["nodeName"]]
        zoned.helm("uninstall", zoned.release)
        zoned.kubectl("delete", "pods", "--all", "--grace-period=0", "--force")
        zoned.kubectl("delete", "namespace", zoned.namespace, "--wait=false")
    finally:
        for name in names:
            plain.kubectl("label", "node", name, f"{ZONE}-")
