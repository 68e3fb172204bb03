"""Copies of an expert are on different nodes: the loss of one of two nodes with expert pods takes no expert away."""

from __future__ import annotations

from k8s.e2e.cluster import Cluster, temporary
from k8s.e2e.conftest import Disturb
from k8s.e2e.lost_experts import STALL_MS, as_many_on_each_node, lose_node, wait_for_placement, worst_stall
from k8s.e2e.nodes import labelled, worker_nodes

LABEL = "caracal-e2e-hosts"


def test_a_node_with_half_of_the_expert_pods_loses_power(cluster: Cluster, disturbed: Disturb) -> None:
    """Four expert pods on two nodes, two replicas of each expert: by pods alone both could be on one node."""
    names = worker_nodes(cluster, 3)
    counts = {"router": 1, "attention": 1, "expert": 4}
    values: dict[str, object] = {f"{role}__initialReplicas": count for role, count in counts.items()}
    values |= {f"{role}__nodeSelector__{LABEL}": "others" for role in ("router", "attention", "redis")}
    values |= {f"expert__nodeSelector__{LABEL}": "experts", "placement__replicas": 2}
    where = dict(zip(names[:3], ("others", "experts", "experts"), strict=True))
    with labelled(cluster, LABEL, where), temporary(cluster.target, "caracal-hosts") as hosts:
        hosts.install("install", **values, **as_many_on_each_node())
        hosts.wait_for_pods(**counts)
        on = [pod["spec"]["nodeName"] for pod in hosts.pods("expert")]
        assert sorted(on) == sorted(2 * names[1:3])
        wait_for_placement(hosts)
        event = "node with half of the expert pods lost"
        answers = disturbed(event, lambda streams: lose_node(hosts, names[2], streams, counts), names[0], hosts)
        assert worst_stall(answers) <= STALL_MS
