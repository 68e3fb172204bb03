"""Who owns `replicas`: the values where they have a number, else nobody but whoever scales."""

import pytest
from support.chart_objects import WORKLOADS, Chart, Object, environment, find, jobs_of, of_kind, pod_specs

from k8s.tools.helm import HelmRejected
from k8s.tools.values import CHART
from services.replicas.settings import ReplicaSettings, Workload

pytestmark = pytest.mark.processes

RUNBOOKS = CHART.parent / "docs/runbooks.md"
ROLES = {"router": "Deployment", "attention": "StatefulSet", "expert": "StatefulSet"}


def _replicas(objects: list[Object]) -> dict[str, int]:
    """Of the release's own Redis as well, which `kubectl scale` switches off when the release moves to another."""
    found = {item["metadata"]["name"]: item["spec"].get("replicas") for item in of_kind(objects, *WORKLOADS)}
    return {name: count for name, count in found.items() if count is not None}


def _settings(objects: list[Object]) -> ReplicaSettings:
    env = environment(dict(pod_specs(objects))[jobs_of(objects, "replicas")]["containers"][0])
    return ReplicaSettings.from_env({name: entry.get("value", "") for name, entry in env.items()})


def test_no_manifest_has_a_number_that_the_values_leave_open(chart: Chart) -> None:
    assert _replicas(chart.render()) == {}
    for profile in ("cpu-tiny", "gpu-1node", "gpu-multinode", "external-redis", "tls"):
        assert _replicas(chart.profile(profile)) == {}, profile
    assert _replicas(chart.render("expert.replicas=null")) == {}


def test_a_number_in_the_values_is_rendered_and_marked(chart: Chart) -> None:
    objects = chart.render("expert.replicas=3")
    assert _replicas(objects) == {"caracal-expert": 3}
    assert find(objects, "StatefulSet", "caracal-expert")["metadata"]["annotations"] == {"caracal/values-replicas": "3"}
    assert "annotations" not in find(objects, "StatefulSet", "caracal-attention")["metadata"]


def test_rendered_without_a_cluster_a_number_that_is_given_away_is_gone(chart: Chart) -> None:
    """Only Helm sees the live one: tools that render and apply hand it over in two commands of docs/runbooks.md."""
    assert _replicas(chart.render("expert.replicas=3", "expert.replicas=null")) == {}
    text = " ".join(RUNBOOKS.read_text().split())
    assert "kubectl apply --server-side --field-manager=scaling" in text
    assert "kubectl annotate statefulset/caracal-expert kubectl.kubernetes.io/last-applied-configuration-" in text


def test_the_job_begins_with_what_nobody_else_sets(chart: Chart) -> None:
    assert _settings(chart.render()).workloads == [
        Workload("statefulsets", "caracal-attention", 2),
        Workload("statefulsets", "caracal-expert", 2),
        Workload("deployments", "caracal-router", 2),
    ]
    objects = chart.render("expert.replicas=3", "attention.autoscaling.enabled=true", "router.initialReplicas=4")
    assert _settings(objects).workloads == [Workload("deployments", "caracal-router", 4)]
    none = chart.render("expert.replicas=3", "attention.autoscaling.enabled=true", "router.initialReplicas=1")
    assert not [item for item in none if "-replicas" in item["metadata"]["name"]]


def test_the_job_may_scale_these_workloads_and_nothing_else(chart: Chart) -> None:
    objects = chart.render("router.replicas=2")
    role = find(objects, "Role", "caracal-replicas")
    scale, notes = role["rules"]
    assert scale["resources"] == ["deployments/scale", "statefulsets/scale"]
    assert sorted(scale["resourceNames"]) == ["caracal-attention", "caracal-expert"]
    assert notes["resourceNames"] == [_settings(objects).config_map]
    assert "data" not in find(objects, "ConfigMap", _settings(objects).config_map), "an upgrade leaves the Job's notes"
    pod = dict(pod_specs(objects))[jobs_of(objects, "replicas")]
    assert pod["serviceAccountName"] == "caracal-replicas"
    egress = find(objects, "NetworkPolicy", "caracal-replicas")["spec"]["egress"]
    assert egress == [{"ports": [{"protocol": "TCP", "port": 443}, {"protocol": "TCP", "port": 6443}]}]


def test_another_image_is_another_job(chart: Chart) -> None:
    assert jobs_of(chart.render(), "replicas") != jobs_of(chart.render("image.tag=v2"), "replicas")


def test_the_capacity_check_counts_the_first_pods(chart: Chart) -> None:
    with pytest.raises(HelmRejected, match=r"expert\.initialReplicas is 1, but .* need at least 2 pods"):
        chart.render("model.shape.layers=2,model.shape.experts=16,expert.capacity=16", "expert.initialReplicas=1")
