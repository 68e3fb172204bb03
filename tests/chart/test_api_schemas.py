"""Strict validation against the API schemas of three Kubernetes minors: oldest supported, one between, newest."""

import kubernetes_validate  # type: ignore[import-untyped]
import pytest
from support.chart_objects import EVERYTHING, Chart

from k8s.tools.render import PROFILES

pytestmark = pytest.mark.processes

MINORS = ("1.30", "1.33", "1.36")
# API groups of other projects, whose schemas are not part of Kubernetes.
CUSTOM_RESOURCES = {
    "monitoring.coreos.com/v1",
    "keda.sh/v1alpha1",
    "gateway.networking.k8s.io/v1",
    "inference.networking.k8s.io/v1",
    "cert-manager.io/v1",
}


@pytest.mark.parametrize("minor", MINORS)
@pytest.mark.parametrize("name", [*PROFILES, "everything"])
def test_objects_are_valid(chart: Chart, minor: str, name: str) -> None:
    objects = chart.render(*EVERYTHING) if name == "everything" else chart.profile(name)
    checked = [thing for thing in objects if thing["apiVersion"] not in CUSTOM_RESOURCES]
    for thing in checked:
        kubernetes_validate.validate(thing, minor, strict=True)
    assert len(checked) > 15


def test_oldest_minor_is_the_one_the_chart_asks_for() -> None:
    from k8s.tools.values import CHART

    assert f'kubeVersion: ">={MINORS[0]}.0-0"' in (CHART / "Chart.yaml").read_text()
