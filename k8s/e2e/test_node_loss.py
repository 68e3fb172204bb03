"""A node loses its power for good: what is replaced by itself, and what after a taint, as docs/runbooks.md says."""

from __future__ import annotations

import pytest

from k8s.e2e.build import NotSupported
from k8s.e2e.cluster import Cluster, until
from k8s.e2e.targets import Target

OUT = "node.kubernetes.io/out-of-service"


def test_pods_of_a_lost_node_are_replaced(target: Target) -> None:
    """Its pods wait for a certificate that nobody makes: only where they are is looked at."""
    lost = Cluster(target, "caracal-lost")
    names = sorted(node["metadata"]["name"] for node in lost.get("nodes")["items"])
    names = [name for name in names if "control-plane" not in name]
    if len(names) < 3:
        pytest.skip(f"three nodes are needed, there are {names}")
    lost.create_namespace()
    replicas = {"router__replicas": 3, "expert__replicas": 3, "attention__replicas": 1}
    lost.install("install", mtls__mode="existing", pod__nodeLossSeconds=5, **replicas)
    until(lambda: len(_nodes(lost, "router")) == len(_nodes(lost, "expert")) == 3, "pods are not scheduled")
    assert sorted(_nodes(lost, "router")) == sorted(_nodes(lost, "expert")) == names[:3], "one on each node"
    node = names[2]
    try:
        lost.target.power_off(node)
    except NotSupported as error:
        pytest.skip(str(error))
    try:
        until(
            lambda: len(_nodes(lost, "router")) == 3 and node not in _nodes(lost, "router"), "no router elsewhere", 180
        )
        assert node in _nodes(lost, "expert", deleted=True), "its expert pod is Terminating"
        lost.kubectl("taint", "nodes", node, f"{OUT}=nodeshutdown:NoExecute")
        until(
            lambda: len(_nodes(lost, "expert")) == 3 and node not in _nodes(lost, "expert"), "no expert elsewhere", 60
        )
        lost.kubectl("taint", "nodes", node, f"{OUT}-")
    finally:
        lost.target.power_on(node)
    until(lambda: "True" in _ready(lost, node), "the node never came back", 240)
    lost.helm("uninstall", lost.release)
    lost.kubectl("delete", "pods", "--all", "--grace-period=0", "--force")
    lost.kubectl("delete", "namespace", lost.namespace, "--wait=false")


def _nodes(cluster: Cluster, role: str, deleted: bool = False) -> list[str]:
    """The node of each of a role's pods, those that are not being deleted or those that are."""
    pods = [pod for pod in cluster.pods(role) if ("deletionTimestamp" in pod["metadata"]) == deleted]
    return [pod["spec"]["nodeName"] for pod in pods if pod["spec"].get("nodeName")]


def _ready(cluster: Cluster, name: str) -> list[str]:
    return [c["status"] for c in cluster.get("node", name)["status"]["conditions"] if c["type"] == "Ready"]
