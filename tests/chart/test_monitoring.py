"""Dashboards and alerts ask only for metrics that services make; monitors find the pods and ports that serve them."""

import json
import re
from pathlib import Path

import yaml
from chart_objects import EVERYTHING, Chart, find, of_kind

from k8s.tools.values import CHART

SERVICES = Path(__file__).resolve().parents[2] / "services"
_NAME = re.compile(r"\bcaracal[:_][a-z0-9_]+\b(?!=)")
# prometheus-client adds these to the names in the source.
_ADDED = re.compile(r"_(total|bucket|sum|count)$")


def _made_by_services() -> set[str]:
    sources = [path.read_text() for path in SERVICES.rglob("*.py")]
    return {name for source in sources for name in re.findall(r'"(caracal[:_][a-z0-9_]+)"', source)}


def _unknown(expression: str, made: set[str]) -> set[str]:
    return {name for name in _NAME.findall(expression) if name not in made and _ADDED.sub("", name) not in made}


def _boards() -> dict[str, str]:
    return {path.name: path.read_text() for path in (CHART / "dashboards").glob("*.json")}


def test_dashboards_ask_for_metrics_that_exist() -> None:
    made = _made_by_services()
    boards = _boards()
    assert boards
    for name, text in boards.items():
        queries = [target["expr"] for panel in json.loads(text)["panels"] for target in panel["targets"]]
        assert all(_NAME.search(query) for query in queries), name
        assert {query: _unknown(query, made) for query in queries if _unknown(query, made)} == {}, name


def test_alerts_ask_for_metrics_that_exist(chart: Chart) -> None:
    made = _made_by_services()
    rules = find(chart.render(*EVERYTHING), "PrometheusRule", "caracal-alerts")["spec"]["groups"][0]["rules"]
    assert len(rules) > 3
    for rule in rules:
        assert _unknown(rule["expr"], made) == set(), rule["alert"]
        assert 'namespace="caracal"' in rule["expr"]
        assert rule["annotations"]["summary"].endswith(".")


def test_autoscalers_ask_for_metrics_that_exist() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    metric = values["attention"]["autoscaling"]["metric"]
    assert _NAME.fullmatch(metric)
    assert _unknown(metric, _made_by_services()) == set()


def test_every_dashboard_becomes_a_config_map(chart: Chart) -> None:
    maps = of_kind(chart.render(*EVERYTHING), "ConfigMap")
    data = {key: json.loads(text) for thing in maps for key, text in thing["data"].items()}
    assert data == {f"caracal-{name}": json.loads(text) for name, text in _boards().items()}
    assert all(thing["metadata"]["labels"]["grafana_dashboard"] == "1" for thing in maps)


def test_monitors_find_pods_and_ports(chart: Chart) -> None:
    objects = chart.render(*EVERYTHING)
    service = find(objects, "ServiceMonitor", "caracal-router")["spec"]
    target = find(objects, "Service", "caracal-router")
    assert service["selector"]["matchLabels"].items() <= target["metadata"]["labels"].items()
    assert service["endpoints"][0]["port"] in {port["name"] for port in target["spec"]["ports"]}
    pods = find(objects, "PodMonitor", "caracal-workers")["spec"]
    for role in ("attention", "expert"):
        template = find(objects, "StatefulSet", f"caracal-{role}")["spec"]["template"]
        labels = template["metadata"]["labels"]
        assert pods["selector"]["matchLabels"].items() <= labels.items()
        assert labels["app.kubernetes.io/component"] in pods["selector"]["matchExpressions"][0]["values"]
        assert "metrics" in {port["name"] for port in template["spec"]["containers"][0]["ports"]}
