"""tracing.* becomes OpenTelemetry's variables at every process of ours, and a way through the NetworkPolicies."""

from __future__ import annotations

import pytest
from support.chart_objects import Chart, Object, environment, find, pod_specs

from k8s.tools.helm import HelmRejected
from services.process.tracing_variables import DOCUMENTED, otlp_protocol

pytestmark = pytest.mark.processes

ROLES = ("Deployment/caracal-router", "StatefulSet/caracal-attention", "StatefulSet/caracal-expert")
ON = "tracing.endpoint=http://collector.observability.svc:4318,tracing.protocol=http/protobuf,tracing.samplerRatio=0"


def variables(objects: list[Object]) -> dict[str, dict[str, str]]:
    """OTEL_* variables of every pod's first container."""
    return {
        name: {
            key: entry["value"] for key, entry in environment(spec["containers"][0]).items() if key.startswith("OTEL_")
        }
        for name, spec in pod_specs(objects)
    }


def test_by_default_no_process_has_a_variable_of_opentelemetry(chart: Chart) -> None:
    assert set(map(len, variables(chart.render()).values())) == {0}


def test_every_role_gets_variables_that_it_accepts(chart: Chart) -> None:
    found = variables(chart.render(ON, "tracing.resourceAttributes.region=eu"))
    assert {name for name, given in found.items() if given} == set(ROLES), "Redis and the test pod have no spans"
    for given in (found[name] for name in ROLES):
        assert given.keys() <= {name for name, _, _ in DOCUMENTED}
        assert otlp_protocol(given) == "http/protobuf"
        assert given["OTEL_TRACES_SAMPLER_ARG"] == "0"
        assert given["OTEL_RESOURCE_ATTRIBUTES"] == "k8s.pod.name=$(POD_NAME),k8s.namespace.name=caracal,region=eu"


@pytest.mark.parametrize(
    ("endpoint", "port"),
    [("http://c:4317", 4317), ("http://c", 80), ("https://c/base:7", 443), ("http://[fd00::1]:4318", 4318)],
)
def test_pods_may_reach_the_collector(chart: Chart, endpoint: str, port: int) -> None:
    objects = chart.render(f"tracing.endpoint={endpoint}")
    (_, rule) = find(objects, "NetworkPolicy", "caracal-default-deny")["spec"]["egress"]
    assert rule == {"ports": [{"protocol": "TCP", "port": port}]}


def test_the_collector_may_be_the_only_peer(chart: Chart) -> None:
    label = "tracing.collector[0].namespaceSelector.matchLabels.name=observability"
    (_, rule) = find(chart.render(ON, label), "NetworkPolicy", "caracal-default-deny")["spec"]["egress"]
    assert rule["to"] == [{"namespaceSelector": {"matchLabels": {"name": "observability"}}}]


@pytest.mark.parametrize("bad", ["endpoint=collector:4317", "protocol=thrift", "samplerRatio=2"])
def test_bad_values_are_rejected(chart: Chart, bad: str) -> None:
    with pytest.raises(HelmRejected, match=bad.partition("=")[0]):
        chart.render(f"tracing.{bad}")
