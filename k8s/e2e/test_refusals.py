"""What must not serve says why."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from k8s.e2e.cluster import Cluster, until

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
