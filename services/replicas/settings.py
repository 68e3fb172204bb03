"""Settings of the process that starts a release's first pods."""

from __future__ import annotations

import re
from dataclasses import dataclass

from services.process.settings import ServiceSettings, Settings, setting, setting_like

KINDS = ("deployments", "statefulsets")
MAX_PODS = 10_000  # as in the chart's schema
_WORKLOAD = re.compile(r"(deployments|statefulsets)/([a-z0-9][-a-z0-9]*)=([0-9]{1,5})")


@dataclass(frozen=True, slots=True)
class Workload:
    """A Deployment or StatefulSet, and how many pods it begins with."""

    kind: str
    name: str
    replicas: int


@dataclass(frozen=True, kw_only=True)
class ReplicaSettings(Settings):
    """Which workloads begin with how many pods."""

    log_level: str = setting_like(ServiceSettings, "log_level")
    initial_replicas: str = setting(
        "Deployments and StatefulSets and the number of pods that each begins with, with spaces between, such as"
        " statefulsets/caracal-expert=2"
    )
    config_map: str = setting("ConfigMap that has a key for each of them that has had its number; it has to exist")

    def validate(self) -> None:
        for word in self.initial_replicas.split():
            found = _WORKLOAD.fullmatch(word)
            if not found or not 1 <= int(found[3]) <= MAX_PODS:
                why = f"{word[:80]!r} is not of the form {' or '.join(f'{kind}/NAME=COUNT' for kind in KINDS)}"
                raise self.invalid("initial_replicas", self.initial_replicas, why)

    @property
    def workloads(self) -> list[Workload]:
        found = (_WORKLOAD.fullmatch(word) for word in self.initial_replicas.split())
        return [Workload(one[1], one[2], int(one[3])) for one in found if one]
