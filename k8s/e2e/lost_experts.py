"""A node with expert pods loses its power: no expert may be without a worker at any time."""

from __future__ import annotations

import json
import re
import time

from k8s.e2e.cluster import Cluster, until
from k8s.e2e.nodes import without_power
from k8s.e2e.records import Answer
from k8s.e2e.streams import Streams

STALL_MS = 1000
LEASE_S = 10.0  # within which the leader has taken note of a worker that is gone: its lease ends within 3 s
STABLE_S = 6.0  # without another table: every replica is where it is to be


def as_many_on_each_node() -> dict[str, object]:
    """Values that put as many expert pods on each node as on any other."""
    constraint = "expert.topologySpreadConstraints[0]"
    return {
        f"{constraint}.maxSkew": 1,
        f"{constraint}.topologyKey": "kubernetes.io/hostname",
        f"{constraint}.whenUnsatisfiable": "DoNotSchedule",
        f"{constraint}.labelSelector.matchLabels.app\\.kubernetes\\.io/component": "expert",
    }


def wait_for_placement(cluster: Cluster) -> None:
    """Waits until the leader has published no table for a while."""
    router = cluster.pods("router")[0]["metadata"]["name"]
    seen, since = -1, time.monotonic()

    def stable() -> bool:
        nonlocal seen, since
        epoch = int(json.loads(cluster.ask(router, ":8002/cluster"))["epoch"])
        if epoch != seen:
            seen, since = epoch, time.monotonic()
        return time.monotonic() > since + STABLE_S

    until(stable, lambda: f"the table changes all the time; its epoch is {seen}")


def lose_node(cluster: Cluster, node: str, streams: Streams, counts: dict[str, int]) -> None:
    """The node loses its power; at no time is an expert on no worker, as the leading router sees it."""
    gone = [p["metadata"]["name"] for role in counts for p in cluster.pods(role) if p["spec"]["nodeName"] == node]
    unplaced: list[float] = []
    with without_power(cluster, node):
        until_s = time.monotonic() + LEASE_S
        while time.monotonic() < until_s:
            unplaced.append(experts_unplaced(cluster))
        streams.wait_for_answers(2)
        cluster.kubectl("delete", "pod", *gone, "--force", "--grace-period=0", "--wait=false")
    cluster.wait_for_pods(**counts)
    streams.wait_for_answers(1)
    assert unplaced
    assert set(unplaced) == {0.0}


def experts_unplaced(cluster: Cluster) -> float:
    """Experts that are loaded on no worker: the leader's number, of which other routers have 0."""
    pages = [cluster.ask(pod["metadata"]["name"], ":8002/metrics") for pod in cluster.pods("router")]
    found = [re.findall(r"^caracal_experts_unplaced (\S+)$", page, re.M) for page in pages]
    assert found, "there is no router"
    assert all(len(one) == 1 for one in found), "a router's page has no such metric"
    return sum(float(one[0]) for one in found)


def worst_stall(answers: list[Answer]) -> float:
    """Milliseconds between two tokens of a stream."""
    return max(stall for answer in answers for stall in answer.stalls[1:])
