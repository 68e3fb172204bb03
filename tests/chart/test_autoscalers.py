"""Autoscalers of the roles: HorizontalPodAutoscalers, and KEDA's ScaledObjects."""

import jsonschema
import pytest
from support.chart_objects import Chart, find, of_kind

pytestmark = pytest.mark.processes


def test_autoscaled_roles_render_no_replicas(chart: Chart) -> None:
    objects = chart.render("pod.autoscaling.enabled=true")
    for role, kind in {"router": "Deployment", "attention": "StatefulSet", "expert": "StatefulSet"}.items():
        assert "replicas" not in find(objects, kind, f"caracal-{role}")["spec"]
        target = find(objects, "HorizontalPodAutoscaler", f"caracal-{role}")["spec"]["scaleTargetRef"]
        assert target == {"apiVersion": "apps/v1", "kind": kind, "name": f"caracal-{role}"}


def test_each_role_scales_on_its_scarcest_resource(chart: Chart) -> None:
    objects = chart.render("pod.autoscaling.enabled=true")
    metrics = {
        thing["metadata"]["name"]: thing["spec"]["metrics"][0] for thing in of_kind(objects, "HorizontalPodAutoscaler")
    }
    assert metrics["caracal-router"]["resource"]["target"] == {"type": "Utilization", "averageUtilization": 70}
    attention = metrics["caracal-attention"]["pods"]
    assert attention["metric"]["name"] == "caracal_kv_cache_usage_perc"
    assert float(attention["target"]["averageValue"]) == 0.7
    expert = metrics["caracal-expert"]["pods"]
    assert expert["metric"]["name"] == "caracal_expert_queue_recent_milliseconds"
    assert float(expert["target"]["averageValue"]) == 2


def test_keda_replaces_the_hpa(chart: Chart) -> None:
    objects = chart.render("attention.autoscaling.enabled=true,attention.autoscaling.kind=keda")
    spec = find(objects, "ScaledObject", "caracal-attention")["spec"]
    assert spec["minReplicaCount"] == 1
    query = spec["triggers"][0]["metadata"]["query"]
    assert query == 'sum(caracal:kv_cache_usage_perc{namespace="caracal",pod=~"caracal-attention-.+"})'
    waiting = spec["triggers"][1]["metadata"]
    assert waiting["query"] == 'sum(caracal:num_requests_waiting{namespace="caracal",pod=~"caracal-router-.+"})'
    assert waiting["threshold"] == "8"
    assert spec["fallback"] == {"failureThreshold": 3, "replicas": 1, "behavior": "currentReplicasIfHigher"}
    scale_down = spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]["scaleDown"]
    assert scale_down["stabilizationWindowSeconds"] == 300
    assert not of_kind(objects, "HorizontalPodAutoscaler")


def test_keda_scales_on_cpu_without_a_fallback(chart: Chart) -> None:
    """KEDA has none for CPU."""
    objects = chart.render("router.autoscaling.enabled=true,router.autoscaling.kind=keda")
    spec = find(objects, "ScaledObject", "caracal-router")["spec"]
    assert [trigger["type"] for trigger in spec["triggers"]] == ["cpu"]
    assert "fallback" not in spec


def test_keda_scales_to_0_with_a_query(chart: Chart) -> None:
    for role in ("router", "attention"):
        scale = f"{role}.autoscaling"
        objects = chart.render(f"{scale}.enabled=true,{scale}.kind=keda,{scale}.minReplicas=0,{scale}.query=sum(x)")
        spec = find(objects, "ScaledObject", f"caracal-{role}")["spec"]
        assert (spec["minReplicaCount"], spec["pollingInterval"]) == (0, 5)
        assert spec["triggers"][0]["metadata"]["query"] == "sum(x)"
        assert float(spec["triggers"][0]["metadata"]["threshold"]) == 70, "in the query's own unit"


def _object(required: tuple[str, ...] = (), **properties: object) -> dict[str, object]:
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}


INTEGER, STRING, STRINGS = {"type": "integer"}, {"type": "string"}, {"additionalProperties": {"type": "string"}}
TRIGGER = _object(("type", "metadata"), type=STRING, metadata=STRINGS, metricType=STRING, name=STRING)
# Fields of a ScaledObject in KEDA 2.17 that the chart may use, as its CRD has them; the API server drops any other.
SCALED_OBJECT = _object(
    ("scaleTargetRef", "triggers"),
    scaleTargetRef=_object(("name",), apiVersion=STRING, kind=STRING, name=STRING),
    minReplicaCount=INTEGER,
    maxReplicaCount=INTEGER,
    pollingInterval=INTEGER,
    cooldownPeriod=INTEGER,
    advanced=_object(horizontalPodAutoscalerConfig=_object(behavior={"type": "object"}, name=STRING)),
    fallback=_object(
        ("failureThreshold", "replicas"),
        failureThreshold=INTEGER,
        replicas=INTEGER,
        behavior={"enum": ["static", "currentReplicas", "currentReplicasIfHigher", "currentReplicasIfLower"]},
    ),
    triggers={"type": "array", "minItems": 1, "items": TRIGGER},
)


@pytest.mark.parametrize("more", ["minReplicas=1", "minReplicas=0,pod.autoscaling.query=sum(x)", "queueTarget=9"])
def test_scaled_objects_have_the_fields_of_kedas(chart: Chart, more: str) -> None:
    """Metadata of triggers are strings, numbers included: the API server rejects others."""
    objects = chart.render("pod.autoscaling.enabled=true,pod.autoscaling.kind=keda", f"pod.autoscaling.{more}")
    scaled = of_kind(objects, "ScaledObject")
    assert len(scaled) == 3
    for thing in scaled:
        jsonschema.validate(thing["spec"], SCALED_OBJECT)
