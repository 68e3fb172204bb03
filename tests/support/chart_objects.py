"""A rendered chart as Python objects, and what tests ask of it."""

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from k8s.tools import helm
from k8s.tools.render import render_profile

Object = dict[str, Any]
WORKLOADS = ("Deployment", "StatefulSet")
# Values that switch on everything optional at once.
EVERYTHING = (
    "ingress.enabled=true,ingress.hosts={a.example.com},httpRoute.enabled=true,httpRoute.parentRefs[0].name=public",
    "inferencePool.enabled=true,inferencePool.endpointPicker.name=picker,tls.mode=certManager,tls.issuerRef.name=ca",
    "monitoring.monitors.enabled=true,monitoring.rules.enabled=true,monitoring.dashboards.enabled=true",
    "pod.autoscaling.enabled=true,pod.shmSize=1Gi,otel.endpoint=http://collector:4317,redis.existingSecret=password",
    "pod.accelerator.count=1,pod.priorityClassName=high,pod.runtimeClassName=nvidia,scaleGuard.enabled=true",
)


@dataclass(frozen=True)
class Chart:
    """Renders with one helm binary."""

    helm: Path

    @functools.lru_cache(maxsize=64)  # noqa: B019
    def profile(self, name: str) -> list[Object]:
        return _parse(render_profile(name, helm=self.helm))

    @functools.lru_cache(maxsize=64)  # noqa: B019
    def render(self, *sets: str) -> list[Object]:
        """The default values with `--set` arguments. Raises HelmRefused."""
        return _parse(helm.template(*(part for one in sets for part in ("--set", one)), helm=self.helm))


def _parse(text: str) -> list[Object]:
    return [document for document in yaml.safe_load_all(text) if document]


def find(objects: list[Object], kind: str, name: str) -> Object:
    """The one object of that kind and name; StopIteration names neither, so the assertion does."""
    found = [thing for thing in objects if thing["kind"] == kind and thing["metadata"]["name"] == name]
    assert len(found) == 1, f"{len(found)} objects {kind}/{name}"
    return found[0]


def of_kind(objects: list[Object], *kinds: str) -> list[Object]:
    return [thing for thing in objects if thing["kind"] in kinds]


def pod_specs(objects: list[Object]) -> Iterator[tuple[str, Object]]:
    """(kind/name, pod spec) of every pod the objects would make, the test's included."""
    for thing in objects:
        name = f"{thing['kind']}/{thing['metadata']['name']}"
        if thing["kind"] in WORKLOADS:
            yield name, thing["spec"]["template"]["spec"]
        elif thing["kind"] == "Pod":
            yield name, thing["spec"]


def containers(spec: Object) -> list[Object]:
    return [*spec.get("initContainers", []), *spec["containers"]]


def environment(container: Object) -> dict[str, Object]:
    return {entry["name"]: entry for entry in container.get("env", [])}
