"""API keys of a release: a user's Secret, mounted at routers alone."""

from __future__ import annotations

import pytest
from support.chart_objects import WORKLOADS, Chart, environment, find, pod_specs

from k8s.tools.helm import HelmRejected

pytestmark = pytest.mark.processes

FILE = "CARACAL_API_KEYS_FILE"


def test_the_file_of_keys_is_mounted_at_routers_alone(chart: Chart) -> None:
    given = (
        "router.apiKeys.existingSecret=mine,router.apiKeys.metricsSecretKey=prometheus,monitoring.monitors.enabled=true"
    )
    objects = chart.render(given)
    for name, spec in pod_specs(objects):
        if name.partition("/")[0] not in WORKLOADS:
            continue
        container = spec["containers"][0]
        mounts = {mount["name"]: mount for mount in container.get("volumeMounts", ())}
        if name != "Deployment/caracal-router":
            assert "api-keys" not in mounts, name
            assert FILE not in environment(container)
            continue
        assert mounts["api-keys"]["readOnly"]
        assert environment(container)[FILE]["value"] == mounts["api-keys"]["mountPath"] + "/keys.toml"
        (volume,) = [volume for volume in spec["volumes"] if volume["name"] == "api-keys"]
        assert volume["secret"] == {"secretName": "mine", "items": [{"key": "keys.toml", "path": "keys.toml"}]}
    monitor = find(objects, "PodMonitor", "caracal-router")
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    assert endpoint["authorization"] == {"credentials": {"name": "mine", "key": "prometheus"}}


def test_without_keys_nothing_is_mounted(chart: Chart) -> None:
    objects = chart.render("monitoring.monitors.enabled=true")
    for _, spec in pod_specs(objects):
        assert FILE not in environment(spec["containers"][0])
        assert "api-keys" not in {volume["name"] for volume in spec.get("volumes", ())}
    monitor = find(objects, "PodMonitor", "caracal-router")
    assert "authorization" not in monitor["spec"]["podMetricsEndpoints"][0]


@pytest.mark.parametrize(
    "value", ["router.apiKeys.existingSecret=../x", "router.apiKeys.secretKey=a/b", "router.apiKeys.keys=x"]
)
def test_other_values_are_rejected(chart: Chart, value: str) -> None:
    with pytest.raises(HelmRejected):
        chart.render(value)
