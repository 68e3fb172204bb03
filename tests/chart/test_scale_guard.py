"""Too few expert pods are reported by routers as Events and rejected by the scale guard."""

from typing import Any

import pytest
from support.chart_objects import Chart, Object, environment, find, of_kind, pod_specs

pytestmark = pytest.mark.processes

FLASH = "model.shape.layers=28,model.shape.experts=512,model.shape.hiddenSize=6144,model.shape.expertSize=2048"
GPUS = "expert.accelerator.count=1,expert.accelerator.memoryGiB=140,expert.replicas=9"
GUARD = "scaleGuard.enabled=true"
# Without Jobs, which have accounts of their own: tests/chart/test_mtls.py, test_replicas.py
PLAIN = "mtls.mode=none,router.replicas=2,attention.replicas=2,expert.replicas=2"
API_SERVER = {"ports": [{"protocol": "TCP", "port": 443}, {"protocol": "TCP", "port": 6443}]}


def tokens(objects: list[Object]) -> set[str]:
    """Returns the pods that mount a service account's token."""
    return {name for name, spec in pod_specs(objects) if spec["automountServiceAccountToken"]}


def account(objects: list[Object]) -> str:
    name = find(objects, "Deployment", "caracal-router")["spec"]["template"]["spec"]["serviceAccountName"]
    assert isinstance(name, str)
    return name


def test_only_routers_may_write_events(chart: Chart) -> None:
    objects = chart.render(PLAIN)
    assert tokens(objects) == {"Deployment/caracal-router"}
    assert account(objects) == "caracal-router"
    assert find(objects, "ServiceAccount", "caracal-router")["automountServiceAccountToken"] is False
    (role,) = of_kind(objects, "Role")
    rights = {(*rule["apiGroups"], *rule["resources"], *rule["verbs"]) for rule in role["rules"]}
    reads = {("", "pods", "get"), ("apps", "statefulsets", "get")}
    assert rights == {("", "events", "create", "patch"), *reads}, "an Event needs the uid of its object"
    (binding,) = of_kind(objects, "RoleBinding")
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": "caracal-router", "namespace": "caracal"}]
    others = {spec["serviceAccountName"] for name, spec in pod_specs(objects) if name != "Deployment/caracal-router"}
    assert others == {"caracal"}
    assert not of_kind(objects, "ClusterRole", "ClusterRoleBinding")


def test_routers_reach_the_api_server_and_know_the_set(chart: Chart) -> None:
    objects = chart.render()
    assert find(objects, "NetworkPolicy", "caracal-router")["spec"]["egress"][0] == API_SERVER
    for role in ("attention", "expert", "redis"):
        assert API_SERVER not in find(objects, "NetworkPolicy", f"caracal-{role}")["spec"]["egress"]
    env = environment(dict(pod_specs(objects))["Deployment/caracal-router"]["containers"][0])
    assert env["CARACAL_EVENTS"]["value"] == "kubernetes"
    find(objects, "StatefulSet", env["CARACAL_EXPERT_SET"]["value"])


def test_its_address_may_be_given(chart: Chart) -> None:
    objects = chart.render("events.apiServer[0].ipBlock.cidr=10.0.0.1/32,events.apiServerPorts={6443}")
    rule = find(objects, "NetworkPolicy", "caracal-router")["spec"]["egress"][0]
    assert rule == {"to": [{"ipBlock": {"cidr": "10.0.0.1/32"}}], "ports": [{"protocol": "TCP", "port": 6443}]}


def test_without_events_nothing_of_it_is_there(chart: Chart) -> None:
    for objects in (chart.render(PLAIN, "events.enabled=false"), chart.render(PLAIN, "serviceAccount.create=false")):
        assert not tokens(objects)
        assert not of_kind(objects, "Role", "RoleBinding")
        assert API_SERVER not in find(objects, "NetworkPolicy", "caracal-router")["spec"]["egress"]
        env = environment(dict(pod_specs(objects))["Deployment/caracal-router"]["containers"][0])
        assert "CARACAL_EVENTS" not in env
    assert account(chart.render("events.enabled=false")) == "caracal"


def test_routers_may_remove_the_pods_of_lost_nodes_where_that_is_allowed(chart: Chart) -> None:
    objects = chart.render(PLAIN, "lostPods.remove=true")
    assert tokens(objects) == {"Deployment/caracal-router"}
    (role,) = of_kind(objects, "Role")
    assert ["get", "list", "delete"] in [rule["verbs"] for rule in role["rules"] if rule["resources"] == ["pods"]]
    env = environment(dict(pod_specs(objects))["Deployment/caracal-router"]["containers"][0])
    same, components = env["CARACAL_LOST_PODS"]["value"].split(",", 2)[:2], env["CARACAL_LOST_PODS"]["value"]
    assert components.endswith("app.kubernetes.io/component in (attention,expert,redis)")
    for kind, name in (("StatefulSet", "attention"), ("StatefulSet", "expert"), ("Deployment", "redis")):
        labels = find(objects, kind, f"caracal-{name}")["spec"]["template"]["metadata"]["labels"]
        assert all(f"{key}={labels[key]}" in same for key in ("app.kubernetes.io/name", "app.kubernetes.io/instance"))


def test_a_given_account_gets_the_rights(chart: Chart) -> None:
    objects = chart.render(PLAIN, "router.serviceAccountName=mine")
    assert account(objects) == "mine"
    assert of_kind(objects, "RoleBinding")[0]["subjects"][0]["name"] == "mine"
    assert {thing["metadata"]["name"] for thing in of_kind(objects, "ServiceAccount")} == {"caracal"}


def guard(objects: list[Object]) -> Any:
    (policy,) = of_kind(objects, "ValidatingAdmissionPolicy")
    (binding,) = of_kind(objects, "ValidatingAdmissionPolicyBinding")
    assert binding["spec"] == {"policyName": policy["metadata"]["name"], "validationActions": ["Deny"]}
    assert "namespace" not in policy["metadata"] | binding["metadata"]
    return policy["spec"]


def test_the_guard_is_off_by_default(chart: Chart) -> None:
    assert not of_kind(chart.render(), "ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding")


def test_the_guard_validates_only_updates_of_this_set(chart: Chart) -> None:
    match = guard(chart.render(GUARD))["matchConstraints"]
    (rule,) = match["resourceRules"]
    assert match["namespaceSelector"] == {"matchLabels": {"kubernetes.io/metadata.name": "caracal"}}
    assert (rule["operations"], rule["resourceNames"]) == (["UPDATE"], ["caracal-expert"])
    assert rule["resources"] == ["statefulsets", "statefulsets/scale"]


def test_the_guard_uses_the_given_capacity(chart: Chart) -> None:
    (rule,) = guard(chart.render(GUARD, "model.shape.layers=3,model.shape.experts=16", "expert.capacity=24"))[
        "validations"
    ]
    assert rule["expression"].startswith("variables.wanted >= 2 ||")
    assert "3 x 16 experts, 1 replica(s) each, at 24 per pod" in rule["messageExpression"]
    (rule,) = guard(chart.render(GUARD, "expert.capacity=24"))["validations"]
    assert rule["expression"].startswith("variables.wanted >= 1 ||"), "the model's sizes are not given"


def test_the_guard_computes_the_pods_needed(chart: Chart) -> None:
    (rule,) = guard(chart.render(GUARD, FLASH, GPUS))["validations"]
    assert rule["expression"].startswith("variables.wanted >= 8 ||")
    message = "at least 8 pods: 28 x 512 experts, 1 replica(s) each, at 1792 per pod, do not fit on fewer"
    assert message in rule["messageExpression"]
    (rule,) = guard(chart.render(GUARD))["validations"]
    assert rule["expression"].startswith("variables.wanted >= 1 ||")
    assert "at least 1 pod:" in rule["messageExpression"]
