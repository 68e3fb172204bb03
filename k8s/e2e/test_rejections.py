"""What must not serve says why."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial

import pytest

from k8s.e2e.cluster import Cluster, until
from k8s.e2e.conftest import Disturb
from k8s.e2e.streams import Streams

LOOK = """
import sys, urllib.error, urllib.request
try:
    print(urllib.request.urlopen(sys.argv[1]).read().decode())
except urllib.error.HTTPError as error:
    print(error.code, error.read().decode())
"""
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
    """An expert pod of the release, apart from its set, whose weights are cut off in the middle."""
    template = cluster.get("statefulset", f"{cluster.release}-expert")["spec"]["template"]
    spec = template["spec"]
    spec["containers"][0]["command"] = ["python", "-c", CORRUPT]
    cluster.apply({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "broken"}, "spec": spec})
    yield "broken"
    cluster.kubectl("delete", "pod", "broken", "--grace-period=0", "--force")


def test_a_corrupt_checkpoint_never_becomes_ready_and_says_why(cluster: Cluster, broken: str) -> None:
    def told() -> bool:
        return "Exit Code:    2" in cluster.kubectl("describe", "pod", broken)

    until(told, "the pod does not end")
    said = cluster.kubectl("describe", "pod", broken)
    assert re.search(r"model-00001-of-\d+\.safetensors: model\.layers\.\S+\.weight: truncated", said), said
    conditions = cluster.get("pod", broken)["status"]["conditions"]
    assert {"Ready": "False"}.items() <= {one["type"]: one["status"] for one in conditions}.items()


def test_a_pod_with_more_rights_is_refused_by_the_namespace(cluster: Cluster) -> None:
    """That the others are accepted under `restricted` means something."""
    container = {"name": "x", "image": cluster.image, "securityContext": {"privileged": True}}
    with pytest.raises(RuntimeError, match="violates PodSecurity"):
        cluster.apply(
            {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "rooted"}, "spec": {"containers": [container]}}
        )


def test_the_network_policies_are_there(cluster: Cluster) -> None:
    names = {policy["metadata"]["name"] for policy in cluster.get("networkpolicies")["items"]}
    roles = ("attention", "default-deny", "expert", "redis", "router", "test")
    assert names == {f"{cluster.release}-{role}" for role in roles}


@pytest.fixture
def tight(cluster: Cluster) -> Iterator[Cluster]:
    """Another release of the same model, whose 48 experts take up both of its expert pods."""
    tight = Cluster(cluster.target, "caracal-tight")
    tight.create_namespace()
    tight.install("install", expert__replicas=2, expert__capacity=24, expert__drain__timeoutSeconds=20)
    tight.settled(router=1, attention=1, expert=2, redis=1)
    yield tight
    tight.helm("uninstall", tight.release)
    tight.kubectl("delete", "namespace", tight.namespace, "--wait=false")


def test_fewer_pods_than_the_experts_need_is_refused_in_words(tight: Cluster, disturbed: Disturb) -> None:
    """The pod that must not go serves until its drain time is over; scaled up again, nothing is lost."""
    leaves, role_set = f"{tight.release}-expert-1", f"statefulset/{tight.release}-expert"

    def refuse(streams: Streams) -> None:
        tight.kubectl("scale", role_set, "--replicas=1")
        for what in (f"pod/{leaves}", role_set):
            until(partial(_told, tight, what), f"{what} is not told", 15)
        router = tight.pods("router")[0]["metadata"]["name"]
        words = "bring at least 1 more expert worker of 24"
        assert words in tight.kubectl("describe", role_set)
        assert words in tight.kubectl("logs", router)
        assert words in _asked(tight, router, ":8000/ready")
        assert "caracal_placement_blocked_drains 1.0" in _asked(tight, router, ":8000/metrics")
        kept = _asked(tight, leaves, ":9090/ready")
        assert "24 experts here have no other place yet" in kept
        assert words in kept
        tight.scale("expert", 2)
        streams.more(1)
        until(lambda: words not in _asked(tight, router, ":8000/ready"), "the warning stays")

    disturbed("fewer expert pods than needed", refuse, to=tight)


def _told(cluster: Cluster, what: str) -> bool:
    return "ExpertsNeedMorePods" in cluster.kubectl("describe", what)


def _asked(cluster: Cluster, pod: str, path: str) -> str:
    """What the pod answers to a GET of `:port/path`, asked from inside it: workers listen on its address alone."""
    address = cluster.get("pod", pod)["status"]["podIP"]
    return cluster.kubectl("exec", pod, "--", "python", "-c", LOOK, f"http://{address}{path}")
