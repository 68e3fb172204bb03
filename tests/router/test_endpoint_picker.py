"""The endpoint picker's configuration in docs/operations.md, against a router's page and the chart's ports."""

from __future__ import annotations

import re
from typing import Any

import httpx2
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from support.gateway_harness import Harness

from k8s.tools.values import CHART, defaults, look_up

PORT = ("router", "adminPort")


@pytest.fixture(scope="module")
def plugins() -> dict[str, dict[str, Any]]:
    """The parameters of each plugin, by its type."""
    text = (CHART.parent / "docs/operations.md").read_text()
    (config,) = re.findall(r"```yaml\n(apiVersion: \S+\nkind: EndpointPickerConfig\n.*?)```", text, re.DOTALL)
    return {plugin["type"]: plugin.get("parameters", {}) for plugin in yaml.safe_load(config)["plugins"]}


def test_the_port_is_the_one_that_has_the_page(plugins: dict[str, dict[str, Any]], router: Harness) -> None:
    """By default a picker asks the pool's port, which is that of the API."""
    assert plugins["metrics-data-source"]["port"] == look_up(defaults(), PORT)
    assert httpx2.get(router.url + "/metrics").status_code == 404
    assert httpx2.get(router.admin_url + plugins["metrics-data-source"].get("path", "/metrics")).status_code == 200


def test_every_metric_is_on_the_page_with_one_sample(plugins: dict[str, dict[str, Any]], router: Harness) -> None:
    """As the picker looks for them: families by that name, of which it takes any sample."""
    page = httpx2.get(router.admin_url + "/metrics").text
    families = {family.name: family for family in text_string_to_metric_families(page)}
    (engine,) = plugins["core-metrics-extractor"]["engineConfigs"]
    specs = {key: value for key, value in engine.items() if key.endswith("Spec")}
    assert specs.keys() == {"queuedRequestsSpec", "runningRequestsSpec", "kvUsageSpec", "cacheInfoSpec"}
    for name in specs.values():
        assert families[name].type == "gauge", name
        assert len(families[name].samples) == 1, name
    (info,) = families[engine["cacheInfoSpec"]].samples
    assert {"block_size", "num_gpu_blocks"} <= info.labels.keys()


def test_pods_have_the_name_of_the_engine(plugins: dict[str, dict[str, Any]]) -> None:
    (engine,) = plugins["core-metrics-extractor"]["engineConfigs"]
    assert f"llm-d.ai/engine-type: {engine['name']}" in (CHART / "templates/_pod.tpl").read_text()
