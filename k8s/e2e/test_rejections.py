"""Broken pods, rejected pods and capacity shortages are reported with their reason."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial

import pytest

from k8s.e2e.cluster import Cluster, temporary, until
from k8s.e2e.conftest import Disturb
from k8s.e2e.streams import Streams

CORRUPT = """
import os, runpy, shutil
shutil.copytree('/app/models/caracal-tiny', '/tmp/model', dirs_exist_ok=True)
weights = sorted(n for n in os.listdir('/tmp/model') if n.endswith('.safetensors'))[0]
os.truncate('/tmp/model/' + weights, os.path.getsize('/tmp/model/' + weights) // 2)
os.environ['CARACAL_MODEL'] = '/tmp/model'
runpy.run_module('services.expert_worker', run_name='__main__')
"""


@pytest.fixture
def broken(cluster: Cluster) -> Iterator[str]:
    """Yields an expert pod outside the release's StatefulSet, whose checkpoint is truncated."""
    template = cluster.get("statefulset", f"{cluster.release}-expert")["spec"]["template"]
    spec = template["spec"]
    spec["containers"][0]["command"] = ["python", "-c", CORRUPT]
    cluster.apply({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "broken"}, "spec": spec})
    yield "broken"
    cluster.kubectl("delete", "pod", "broken", "--grace-period=0", "--force")


def test_a_corrupt_checkpoint_never_becomes_ready_and_says_why(cluster: Cluster, broken: str) -> None:
    def exited() -> bool:
        return "Exit Code:    2" in cluster.kubectl("describe", "pod", broken)

    until(exited, "the pod does not exit")
    description = cluster.kubectl("describe", "pod", broken)
    assert re.search(r"model-00001-of-\d+\.safetensors: model\.layers\.\S+\.weight: truncated", description), (
        description
    )
    conditions = cluster.get("pod", broken)["status"]["conditions"]
    assert {"Ready": "False"}.items() <= {one["type"]: one["status"] for one in conditions}.items()


def test_a_privileged_pod_is_rejected_by_the_namespace(cluster: Cluster) -> None:
    """The namespace enforces `restricted`, so the release's pods satisfy it."""
    container = {"name": "x", "image": cluster.image, "securityContext": {"privileged": True}}
    with pytest.raises(RuntimeError, match="violates PodSecurity"):
        cluster.apply(
            {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "rooted"}, "spec": {"containers": [container]}}
        )


def test_the_network_policies_are_there(cluster: Cluster) -> None:
    names = {policy["metadata"]["name"] for policy in cluster.get("networkpolicies")["items"]}
    roles = ("attention", "certificates", "default-deny", "expert", "redis", "router", "test")
    assert names - {f"{cluster.release}-replicas"} == {f"{cluster.release}-{role}" for role in roles}


@pytest.fixture
def tight(cluster: Cluster) -> Iterator[Cluster]:
    """Yields another release of the same model, whose 48 experts fill both of its expert pods."""
    with temporary(cluster.target, "caracal-tight") as tight:
        tight.install("install", expert__replicas=2, expert__capacity=24, expert__drain__timeoutSeconds=20)
        tight.wait_for_pods(router=1, attention=1, expert=2, redis=1)
        yield tight


def test_scaling_below_the_needed_pods_is_reported(tight: Cluster, disturbed: Disturb) -> None:
    """The draining pod serves until its drain timeout; scaled up again before that, no expert is lost."""
    draining, role_set = f"{tight.release}-expert-1", f"statefulset/{tight.release}-expert"

    def scale_down(streams: Streams) -> None:
        tight.kubectl("scale", role_set, "--replicas=1")
        for what in (f"pod/{draining}", role_set):
            until(partial(_has_event, tight, what), f"{what} gets no Event", 15)
        router = tight.pods("router")[0]["metadata"]["name"]
        reason = "bring at least 1 more expert worker of 24"
        assert reason in tight.kubectl("describe", role_set)
        assert reason in tight.kubectl("logs", router)
        assert reason in tight.ask(router, ":8000/ready")
        assert "caracal_placement_blocked_drains 1.0" in tight.ask(router, ":8002/metrics")
        ready = tight.ask(draining, ":9090/ready")
        assert "24 experts here have no other place yet" in ready
        assert reason in ready
        tight.scale("expert", 2)
        streams.wait_for_answers(1)
        until(lambda: reason not in tight.ask(router, ":8000/ready"), "the warning stays")

    disturbed("fewer expert pods than needed", scale_down, to=tight)


def _has_event(cluster: Cluster, what: str) -> bool:
    return "ExpertsNeedMorePods" in cluster.kubectl("describe", what)
