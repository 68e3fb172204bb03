"""A node loses its power for good: what is replaced by itself, and what after a taint, as docs/runbooks.md says."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from k8s.e2e.build import NotSupported
from k8s.e2e.cluster import Cluster, until
from k8s.e2e.targets import Target

OUT = "node.kubernetes.io/out-of-service"
VALUES = {"router__replicas": 3, "expert__replicas": 3, "attention__replicas": 1, "pod__nodeLossSeconds": 5}


@pytest.fixture
def lost(target: Target) -> Iterator[Cluster]:
    """A namespace for a release of its own, which goes with it."""
    made = Cluster(target, "caracal-lost")
    names = _names(made)
    if len(names) < 3:
        pytest.skip(f"three nodes are needed, there are {names}")
    made.create_namespace()
    yield made
    made.helm("uninstall", made.release)
    made.kubectl("delete", "pods", "--all", "--grace-period=0", "--force")
    made.kubectl("delete", "namespace", made.namespace)


@contextmanager
def _without(cluster: Cluster, node: str) -> Iterator[None]:
    """Without the power of a node, which has it again afterwards."""
    try:
        cluster.target.power_off(node)
    except NotSupported as error:
        pytest.skip(str(error))
    try:
        yield
    finally:
        cluster.target.power_on(node)
    until(lambda: "True" in _ready(cluster, node), "the node never came back", 240)


def test_pods_of_a_lost_node_are_replaced(lost: Cluster) -> None:
    """Its pods wait for a certificate that nobody makes: only where they are is looked at."""
    lost.install("install", mtls__mode="existing", **VALUES)
    until(lambda: len(_nodes(lost, "router")) == len(_nodes(lost, "expert")) == 3, "pods are not scheduled")
    assert sorted(_nodes(lost, "router")) == sorted(_nodes(lost, "expert")) == _names(lost)[:3], "one on each node"
    node = _names(lost)[2]
    with _without(lost, node):
        until(
            lambda: len(_nodes(lost, "router")) == 3 and node not in _nodes(lost, "router"), "no router elsewhere", 180
        )
        until(lambda: node in _nodes(lost, "expert", deleted=True), "its expert pod is not Terminating", 30)
        assert node not in _nodes(lost, "expert"), "and none has taken its place"
        lost.kubectl("taint", "nodes", node, f"{OUT}=nodeshutdown:NoExecute")
        until(
            lambda: len(_nodes(lost, "expert")) == 3 and node not in _nodes(lost, "expert"), "no expert elsewhere", 60
        )
        lost.kubectl("taint", "nodes", node, f"{OUT}-")


def test_the_leading_router_removes_the_pods_of_a_lost_node(lost: Cluster) -> None:
    """Nobody taints anything: the release alone comes back to its size."""
    lost.install("install", lostPods__remove="true", **VALUES)
    lost.wait_for_rollouts()
    node = _names(lost)[2]
    assert node in _nodes(lost, "expert")
    with _without(lost, node):
        until(lambda: node in _nodes(lost, "expert", deleted=True), "its expert pod is not Terminating", 180)
        until(
            lambda: len(_nodes(lost, "expert")) == 3 and node not in _nodes(lost, "expert"), "no expert elsewhere", 120
        )
        lost.wait_for_rollouts()


def _names(cluster: Cluster) -> list[str]:
    """The nodes that run pods."""
    names = sorted(node["metadata"]["name"] for node in cluster.get("nodes")["items"])
    return [name for name in names if "control-plane" not in name]


def _nodes(cluster: Cluster, role: str, deleted: bool = False) -> list[str]:
    """The node of each of a role's pods, those that are not being deleted or those that are."""
    pods = [pod for pod in cluster.pods(role) if ("deletionTimestamp" in pod["metadata"]) == deleted]
    return [pod["spec"]["nodeName"] for pod in pods if pod["spec"].get("nodeName")]


def _ready(cluster: Cluster, name: str) -> list[str]:
    return [c["status"] for c in cluster.get("node", name)["status"]["conditions"] if c["type"] == "Ready"]
