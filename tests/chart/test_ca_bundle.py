"""Authorities of an operator's own reach the pods, and what reads them."""

import pytest
from support.chart_objects import Chart, Object, containers, environment, jobs_of, pod_specs

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


def test_who_fetches_weights_has_them_too(chart: Chart) -> None:
    def has_them(spec: Object, container: Object) -> bool:
        mounted = {"name": "ca", "mountPath": "/etc/caracal/ca", "readOnly": True} in container["volumeMounts"]
        named = environment(container).get("CARACAL_FETCH_CA", {}).get("value") == FILE
        return mounted and named and "ca" in [volume["name"] for volume in spec["volumes"]]

    uri = "model.uri=hf://org/name@abc,caBundle.secret=mine"
    specs = dict(pod_specs(objects := chart.render(uri, "model.fetch.mode=claim")))
    job = specs[jobs_of(objects, "weights")]
    assert has_them(job, job["containers"][0])
    sliced = dict(pod_specs(chart.render(uri, "model.fetch.mode=slices")))
    for role in ROLES:
        assert has_them(sliced[role], sliced[role]["initContainers"][0]), role
        assert has_them(sliced[role], sliced[role]["containers"][0]) == (role != ROLES[0]), (
            "routers fetch nothing later"
        )


def test_without_one_there_is_none(chart: Chart) -> None:
    for name, spec in pod_specs(chart.render()):
        assert "ca" not in [volume["name"] for volume in spec.get("volumes", [])], name
        assert "CARACAL_REDIS_CA" not in environment(spec["containers"][0])


def test_two_are_rejected(chart: Chart) -> None:
    with pytest.raises(HelmRejected, match="name one of them"):
        chart.render("caBundle.configMap=a,caBundle.secret=b")
