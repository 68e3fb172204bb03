"""The committed renderings are up to date, so that reviews show the effect of a change of the chart."""

import pytest
from support.chart_objects import Chart

from k8s.tools import __main__ as tools
from k8s.tools.render import PROFILES
from k8s.tools.values import CHART

pytestmark = pytest.mark.processes


def test_examples_and_manifests_are_up_to_date(chart: Chart) -> None:
    rendered = tools.rendered()
    assert {path.name for path in rendered} == {*(f"rendered-{name}.yaml" for name in PROFILES), "caracal.yaml"}
    assert "".join(tools.differences(rendered)) == ""


def test_kustomize_sets_the_namespace_of_the_manifests() -> None:
    text = (CHART / "manifests/caracal.yaml").read_text()
    assert "\n  namespace:" not in text
    assert "helm.sh/hook" not in text
