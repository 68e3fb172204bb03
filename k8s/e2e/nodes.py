"""Which nodes a test may use, and faults of whole nodes, which end with the test."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from k8s.e2e.build import NotSupported
from k8s.e2e.cluster import Cluster, until

OUT_OF_SERVICE = "node.kubernetes.io/out-of-service"


def worker_nodes(cluster: Cluster, least: int) -> list[str]:
    """The nodes that run pods, those without the cluster's DNS server last: a test that loses one takes the last, for a
    release without DNS is not under test. Skips the test on a cluster of somebody's, or with fewer nodes."""
    if not cluster.target.own:
        pytest.skip("the nodes of an existing cluster are not labelled, cordoned or switched off")
    found = sorted(node["metadata"]["name"] for node in cluster.get("nodes")["items"])
    names = [name for name in found if "control-plane" not in name]
    if len(names) < least:
        pytest.skip(f"{least} nodes are needed, there are {names}")
    dns = cluster.get("pods", "-n", "kube-system", "-l", "k8s-app=kube-dns")["items"]
    with_dns = {pod["spec"].get("nodeName") for pod in dns}
    return sorted(names, key=lambda name: (name not in with_dns, name))


def is_ready(cluster: Cluster, name: str) -> bool:
    conditions = cluster.get("node", name)["status"]["conditions"]
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)


@contextmanager
def without_power(cluster: Cluster, node: str) -> Iterator[None]:
    """Without the power of a node, which has it again, and is ready, afterwards."""
    try:
        cluster.target.power_off(node)
    except NotSupported as error:
        pytest.skip(str(error))
    try:
        yield
    finally:
        cluster.target.power_on(node)
        until(lambda: is_ready(cluster, node), f"node {node} never came back", 240)


@contextmanager
def out_of_service(cluster: Cluster, node: str) -> Iterator[None]:
    """With the taint that says that a node is off for good."""
    cluster.kubectl("taint", "nodes", node, f"{OUT_OF_SERVICE}=nodeshutdown:NoExecute", "--overwrite")
    try:
        yield
    finally:
        cluster.kubectl("taint", "nodes", node, f"{OUT_OF_SERVICE}-")


@contextmanager
def labelled(cluster: Cluster, key: str, values: dict[str, str]) -> Iterator[None]:
    """With this label on nodes, {node: value}."""
    try:
        for name, value in values.items():
            cluster.kubectl("label", "node", name, f"{key}={value}", "--overwrite")
        yield
    finally:
        for name in values:
            cluster.kubectl("label", "node", name, f"{key}-")


@contextmanager
def cordoned(cluster: Cluster, names: list[str]) -> Iterator[None]:
    """While these nodes take no new pods."""
    try:
        for name in names:
            cluster.kubectl("cordon", name)
        yield
    finally:
        for name in names:
            cluster.kubectl("uncordon", name)
