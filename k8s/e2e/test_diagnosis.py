"""`caracal status` and `scale` name what the API server refuses, which no pod can say."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from k8s.e2e.cluster import Cluster, temporary, until
from k8s.e2e.targets import Target
from k8s.e2e.test_replicas import OFF


@pytest.fixture
def full(target: Target) -> Iterator[Cluster]:
    """Yields a release in a namespace whose quota has no room for another pod."""
    with temporary(target, "caracal-full") as full:
        full.install("install", expert__initialReplicas=2, **OFF)
        until(lambda: full.replicas("expert") == 2 and len(full.pods("expert")) == 2, "the Job does not begin")
        spec = {"hard": {"pods": 1}}
        full.apply({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "full"}, "spec": spec})
        until(lambda: full.get("resourcequota", "full")["status"].get("hard"), "the quota is not seen")
        yield full


def test_a_quota_is_named_by_scale_and_status(full: Cluster) -> None:
    refused = r"caracal-expert: FailedCreate: .*forbidden: exceeded quota: full"
    with pytest.raises(RuntimeError, match=rf"not reached within 20 s; {refused}"):
        full.caracal("scale", "expert=3", "--timeout", "20")
    with pytest.raises(RuntimeError, match=r"caracal-expert: FailedCreate: .*exceeded quota: full"):
        full.caracal("status")  # which ends with 3, because no router is ready
    full.kubectl("delete", "pod", "-l", "app.kubernetes.io/component=router")
    until(
        lambda: "caracal-router: FailedCreate: " in _status(full),
        "status does not name what the router's ReplicaSet cannot create",
        30,
    )


def _status(cluster: Cluster) -> str:
    try:
        return cluster.caracal("status")
    except RuntimeError as error:
        return str(error)
