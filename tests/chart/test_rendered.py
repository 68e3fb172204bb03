"""The committed renderings are what the chart makes today: a change of the chart shows its effect in review."""

from support.chart_objects import Chart

from k8s.tools import __main__ as tools
from k8s.tools.render import PROFILES
from k8s.tools.values import CHART


def test_examples_and_manifests_are_up_to_date(chart: Chart) -> None:
    made = tools.rendered()
    assert {path.name for path in made} == {*(f"rendered-{name}.yaml" for name in PROFILES), "caracal.yaml"}
    assert "".join(tools.differences(made)) == ""


def test_manifests_leave_the_namespace_to_kustomize() -> None:
    text = (CHART / "manifests/caracal.yaml").read_text()
    assert "\n  namespace:" not in text
    assert "helm.sh/hook" not in text
