"""Pods are deleted, killed and replaced under streams."""

from __future__ import annotations

import pytest

from k8s.e2e.cluster import Cluster, until
from k8s.e2e.conftest import Disturb
from k8s.e2e.streams import Streams

FULL = {"router": 2, "attention": 2, "expert": 2}


@pytest.fixture(scope="module", autouse=True)
def _two_of_each(cluster: Cluster, undisturbed: dict[str, str]) -> None:
    for role, count in FULL.items():
        cluster.scale(role, count)


def _delete(cluster: Cluster, role: str, count: int, *flags: str) -> None:
    """Deletes the last pod of a role and waits until there are `count` pods again."""
    victim = cluster.pods(role)[-1]["metadata"]
    cluster.kubectl("delete", "pod", victim["name"], "--wait=false", *flags)
    until(
        lambda: victim["uid"] not in [pod["metadata"]["uid"] for pod in cluster.pods(role)], "the pod was never deleted"
    )
    cluster.wait_for_pods(**{role: count})


@pytest.mark.parametrize("role", ["router", "attention", "expert"])
def test_a_pod_is_deleted(cluster: Cluster, disturbed: Disturb, role: str) -> None:
    def delete(streams: Streams) -> None:
        _delete(cluster, role, 2)
        streams.wait_for_answers(1)

    disturbed(f"{role} pod deleted", delete)


@pytest.mark.parametrize("role", ["attention", "expert", "redis"])
def test_a_pod_is_deleted_by_force(cluster: Cluster, disturbed: Disturb, role: str) -> None:
    def delete(streams: Streams) -> None:
        _delete(cluster, role, FULL.get(role, 1), "--grace-period=0", "--force")
        streams.wait_for_answers(1)

    disturbed(f"{role} pod deleted by force", delete)


@pytest.mark.parametrize("role", ["attention", "expert"])
def test_the_only_pod_of_a_role_is_deleted(cluster: Cluster, disturbed: Disturb, role: str) -> None:
    """For some seconds no other pod can take over: requests wait."""
    cluster.scale(role, 1)

    def delete(streams: Streams) -> None:
        _delete(cluster, role, 1)
        streams.wait_for_answers(1)

    disturbed(f"the only {role} pod deleted", delete)
    cluster.scale(role, 2)


def test_rolling_restart_of_all_roles(cluster: Cluster, disturbed: Disturb) -> None:
    def restart(streams: Streams) -> None:
        workloads = [f"deployment/{cluster.release}-router"]
        workloads += [f"statefulset/{cluster.release}-{role}" for role in ("attention", "expert")]
        cluster.kubectl("rollout", "restart", *workloads)
        cluster.wait_for_rollouts()
        streams.wait_for_answers(1)

    disturbed("rolling restart of all roles", restart)


def test_helm_upgrade_of_all_roles(cluster: Cluster, disturbed: Disturb) -> None:
    """Every pod is replaced; numbers set by `kubectl scale` stay; from here on experts have two replicas."""

    def upgrade(streams: Streams) -> None:
        cluster.install(
            "upgrade",
            expert__initialReplicas=2,
            placement__replicas=2,
            pod__podAnnotations__release="two",
        )
        cluster.wait_for_rollouts()
        cluster.wait_for_pods(**FULL)
        streams.wait_for_answers(1)

    disturbed("helm upgrade of all roles", upgrade)
