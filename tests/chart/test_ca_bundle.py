"""Authorities of an operator's own reach the pods, and what reads them."""

import pytest
from support.chart_objects import Chart, containers, environment, pod_specs

from k8s.tools.helm import HelmRejected

pytestmark = pytest.mark.processes

ROLES = ("Deployment/caracal-router", "StatefulSet/caracal-attention", "StatefulSet/caracal-expert")
FILE = "/etc/caracal/ca/ca.crt"


@pytest.mark.parametrize(
    ("values", "source"),
    [
        ("caBundle.configMap=mine", {"configMap": {"name": "mine", "items": [{"key": "ca.crt", "path": "ca.crt"}]}}),
        (
            "caBundle.secret=mine,caBundle.key=bundle.pem",
            {"secret": {"secretName": "mine", "items": [{"key": "bundle.pem", "path": "ca.crt"}]}},
        ),
    ],
)
def test_every_role_has_the_file_and_a_variable_with_its_path(
    chart: Chart, values: str, source: dict[str, object]
) -> None:
    specs = dict(pod_specs(chart.render(values)))
    for role in ROLES:
        assert {"name": "ca", **source} in specs[role]["volumes"]
        (main,) = containers(specs[role])
        assert {"name": "ca", "mountPath": "/etc/caracal/ca", "readOnly": True} in main["volumeMounts"]
        assert environment(main)["CARACAL_REDIS_CA"]["value"] == FILE


def test_without_one_there_is_none(chart: Chart) -> None:
    for name, spec in pod_specs(chart.render()):
        assert "ca" not in [volume["name"] for volume in spec.get("volumes", [])], name
        assert "CARACAL_REDIS_CA" not in environment(spec["containers"][0])


def test_two_are_rejected(chart: Chart) -> None:
    with pytest.raises(HelmRejected, match="name one of them"):
        chart.render("caBundle.configMap=a,caBundle.secret=b")
