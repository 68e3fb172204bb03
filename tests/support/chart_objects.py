"""Renders the chart into Python objects and finds parts of them."""

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
ONCE = ("Pod", "Job", "CronJob")  # pods that end by themselves
# Values that switch on everything optional at once.
EVERYTHING = (
    "ingress.enabled=true,ingress.hosts={a.example.com},httpRoute.enabled=true,httpRoute.parentRefs[0].name=public",
    "inferencePool.enabled=true,inferencePool.endpointPicker.name=picker,tls.mode=certManager,tls.issuerRef.name=ca",
    "monitoring.monitors.enabled=true,monitoring.rules.enabled=true,monitoring.dashboards.enabled=true",
    "pod.autoscaling.enabled=true,pod.shmSize=1Gi,redis.existingSecret=password",
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
        """The default values with `--set` arguments. Raises HelmRejected."""
        return _parse(helm.template(*(part for one in sets for part in ("--set", one)), helm=self.helm))


def _parse(text: str) -> list[Object]:
    return [document for document in yaml.safe_load_all(text) if document]


def find(objects: list[Object], kind: str, name: str) -> Object:
    """Returns the one object of that kind and name."""
    found = [item for item in objects if item["kind"] == kind and item["metadata"]["name"] == name]
    assert len(found) == 1, f"{len(found)} objects {kind}/{name}"
    return found[0]


def of_kind(objects: list[Object], *kinds: str) -> list[Object]:
    return [item for item in objects if item["kind"] in kinds]


def pod_specs(objects: list[Object]) -> Iterator[tuple[str, Object]]:
    """Yields (kind/name, pod spec) of every pod the objects would create, the chart's test pod included."""
    for item in objects:
        name = f"{item['kind']}/{item['metadata']['name']}"
        if item["kind"] in (*WORKLOADS, "Job"):
            yield name, item["spec"]["template"]["spec"]
        elif item["kind"] == "CronJob":
            yield name, item["spec"]["jobTemplate"]["spec"]["template"]["spec"]
        elif item["kind"] == "Pod":
            yield name, item["spec"]


def jobs_of(objects: list[Object], component: str) -> str:
    """Returns kind/name of a component's Job, whose name ends in a digest."""
    named = [item["metadata"]["name"] for item in of_kind(objects, "Job")]
    (name,) = [name for name in named if name.startswith(f"caracal-{component}-")]
    return f"Job/{name}"


def containers(spec: Object) -> list[Object]:
    return [*spec.get("initContainers", []), *spec["containers"]]


def environment(container: Object) -> dict[str, Object]:
    return {entry["name"]: entry for entry in container.get("env", [])}
