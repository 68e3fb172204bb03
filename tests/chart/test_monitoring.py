"""Dashboards and alerts query only metrics that services export; monitors select the pods and ports that serve them."""

import json
import re
from typing import Any

import pytest
import yaml
from support.chart_objects import EVERYTHING, Chart, find, of_kind
from support.live_metrics import exported

from k8s.tools.values import CHART

pytestmark = pytest.mark.processes

OPERATIONS = CHART.parent / "docs/operations.md"
_NAME = re.compile(r"\bcaracal[:_][a-z0-9_]+\b(?!=)")
# An HPA computes in thousandths of a metric's unit: a smaller target would be lost in rounding.
_MIN_TARGET = 0.1


@pytest.fixture(scope="module")
def roles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    return exported(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def known(roles: dict[str, set[str]]) -> set[str]:
    return set().union(*roles.values())


def _unknown(expression: str, known: set[str]) -> set[str]:
    return set(_NAME.findall(expression)) - known


def _boards() -> dict[str, str]:
    return {path.name: path.read_text() for path in (CHART / "dashboards").glob("*.json")}


def test_dashboards_query_metrics_that_exist(known: set[str]) -> None:
    boards = _boards()
    assert boards.keys() == {"requests.json", "engine.json", "experts.json"}
    for name, text in boards.items():
        queries = [target["expr"] for panel in json.loads(text)["panels"] for target in panel["targets"]]
        assert all(_NAME.search(query) for query in queries), name
        assert {query: _unknown(query, known) for query in queries if _unknown(query, known)} == {}, name


def test_a_metric_of_two_roles_is_queried_from_one(roles: dict[str, set[str]], chart: Chart) -> None:
    """A sum over both would count everything twice."""
    both = roles["router"] & roles["attention"] - {"caracal_redis_up"}
    assert "caracal:generation_tokens_total" in both
    queries = [
        target["expr"]
        for text in _boards().values()
        for panel in json.loads(text)["panels"]
        for target in panel["targets"]
    ]
    queries += [rule["expr"] for rule in _rules(chart)]
    by_pod = re.compile(r"sum by \([^)]*\bpod\b")
    doubled = [
        query
        for query in queries
        for name in both
        if re.search(rf"sum.*\b{name}{{(?!.*model_name)", query) and not by_pod.search(query)
    ]
    assert doubled == []


def _rules(chart: Chart) -> list[dict[str, Any]]:
    spec = find(chart.render(*EVERYTHING), "PrometheusRule", "caracal-alerts")["spec"]
    rules: list[dict[str, Any]] = spec["groups"][0]["rules"]
    return rules


def test_alerts_query_metrics_that_exist(chart: Chart, known: set[str]) -> None:
    rules = _rules(chart)
    assert len(rules) > 3
    for rule in rules:
        assert _unknown(rule["expr"], known) == set(), rule["alert"]
        selectors = rule["expr"].count("{")
        assert selectors == rule["expr"].count('namespace="caracal"') > 0, "every selector stays in its namespace"
        assert rule["annotations"]["summary"].endswith(".")


def test_every_alert_has_a_row_in_the_manual(chart: Chart) -> None:
    lines = re.findall(r"^\| `(Caracal\w+)` \| .{20,} \|$", OPERATIONS.read_text(), re.MULTILINE)
    assert lines == [rule["alert"] for rule in _rules(chart)]


def test_autoscalers_use_metrics_of_their_pods(roles: dict[str, set[str]]) -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    metrics = {role: values[role]["autoscaling"].get("metric", "") for role in roles}
    assert metrics["router"] == "", "CPU"
    for role in ("attention", "expert"):
        assert metrics[role] in roles[role]
    assert values["expert"]["autoscaling"]["target"] >= _MIN_TARGET


def test_the_adapter_rule_in_the_manual_serves_the_autoscalers(chart: Chart) -> None:
    (text,) = re.findall(r"```yaml\n(rules:.*?)```", (CHART / "README.md").read_text(), re.DOTALL)
    (rule,) = yaml.safe_load(text)["rules"]
    series = re.search(r'__name__=~"([^"]+)"', rule["seriesQuery"])
    assert series
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    metrics = [values[role]["autoscaling"]["metric"] for role in ("attention", "expert")]
    given = {re.sub(rule["name"]["matches"], rule["name"]["as"].replace("$1", r"\1"), name) for name in metrics}
    assert all(re.fullmatch(series[1], name) for name in metrics)
    scalers = of_kind(chart.render("pod.autoscaling.enabled=true"), "HorizontalPodAutoscaler")
    wanted = [metric for scaler in scalers for metric in scaler["spec"]["metrics"] if metric["type"] == "Pods"]
    assert {metric["pods"]["metric"]["name"] for metric in wanted} == given


def test_every_dashboard_becomes_a_config_map(chart: Chart) -> None:
    maps = of_kind(chart.render(*EVERYTHING), "ConfigMap")
    data = {key: json.loads(text) for thing in maps for key, text in thing["data"].items()}
    assert data == {f"caracal-{name}": json.loads(text) for name, text in _boards().items()}
    assert all(thing["metadata"]["labels"]["grafana_dashboard"] == "1" for thing in maps)


def test_monitors_find_pods_and_ports(chart: Chart) -> None:
    objects = chart.render(*EVERYTHING)
    routers = find(objects, "PodMonitor", "caracal-router")["spec"]
    template = find(objects, "Deployment", "caracal-router")["spec"]["template"]
    assert routers["selector"]["matchLabels"].items() <= template["metadata"]["labels"].items()
    assert routers["podMetricsEndpoints"][0]["port"] == "admin"
    assert "admin" in {port["name"] for port in template["spec"]["containers"][0]["ports"]}
    pods = find(objects, "PodMonitor", "caracal-workers")["spec"]
    for role in ("attention", "expert"):
        template = find(objects, "StatefulSet", f"caracal-{role}")["spec"]["template"]
        labels = template["metadata"]["labels"]
        assert pods["selector"]["matchLabels"].items() <= labels.items()
        assert labels["app.kubernetes.io/component"] in pods["selector"]["matchExpressions"][0]["values"]
        assert "metrics" in {port["name"] for port in template["spec"]["containers"][0]["ports"]}
