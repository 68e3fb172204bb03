"""The cluster key of a release: a Secret that is mounted where it is needed, of the release or of its user."""

from __future__ import annotations

import base64

import pytest
from support.chart_objects import WORKLOADS, Chart, Object, environment, of_kind, pod_specs

from k8s.tools.helm import HelmRejected

pytestmark = pytest.mark.processes

ROLES = ("router", "attention", "expert")
FILE = "CARACAL_CLUSTER_KEY_FILE"
PLAIN = "mtls.mode=none"


def _pods(objects: list[Object]) -> dict[str, Object]:
    return {name.rpartition("-")[2]: spec for name, spec in pod_specs(objects) if name.partition("/")[0] in WORKLOADS}


def _secrets(spec: Object) -> list[str]:
    return [volume["secret"]["secretName"] for volume in spec["volumes"] if "secret" in volume]


def test_the_release_makes_a_key_of_its_own(chart: Chart) -> None:
    objects = chart.render(PLAIN)
    (secret,) = of_kind(objects, "Secret")
    assert secret["metadata"]["name"] == "caracal-cluster-key"
    assert len(base64.b64decode(secret["data"]["key"])) == 48
    pods = _pods(objects)
    for role in ROLES:
        container = pods[role]["containers"][0]
        assert _secrets(pods[role]) == ["caracal-cluster-key"]
        (mount,) = [mount for mount in container["volumeMounts"] if mount["name"] == "cluster-key"]
        assert mount["readOnly"]
        assert environment(container)[FILE]["value"] == f"{mount['mountPath']}/key"
    assert not _secrets(pods["redis"]), "Redis is not to know it"
    assert secret["data"]["key"] not in str(pods)


def test_a_secret_of_the_user_is_named_and_not_made(chart: Chart) -> None:
    objects = chart.render(PLAIN, "clusterKey.existingSecret=mine,clusterKey.secretKey=cluster")
    assert not of_kind(objects, "Secret")
    for role in ROLES:
        spec = _pods(objects)[role]
        assert _secrets(spec) == ["mine"]
        assert environment(spec["containers"][0])[FILE]["value"].endswith("/cluster")


def test_without_a_key_nothing_is_mounted(chart: Chart) -> None:
    objects = chart.render(PLAIN, "clusterKey.enabled=false")
    assert not of_kind(objects, "Secret")
    for spec in _pods(objects).values():
        assert not _secrets(spec)
        assert FILE not in environment(spec["containers"][0])


@pytest.mark.parametrize("value", ["clusterKey.existingSecret=../x", "clusterKey.secretKey=a/b", "clusterKey.key=x"])
def test_other_values_are_rejected(chart: Chart, value: str) -> None:
    with pytest.raises(HelmRejected):
        chart.render(value)
