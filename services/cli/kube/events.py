"""Warning Events of a release, each by the object that it is about. `Any` stands for API objects."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

NOT_CREATED = "FailedCreate"  # of a StatefulSet, or of a Deployment's ReplicaSet: a quota, an admission webhook
# What holds a pod that is being deleted; its probes fail all the same.
KEEPS_A_DELETED_POD = ("ExpertsNeedMorePods", "FailedKillPod", "FailedPreStopHook")
CLOCKS_S = 5.0  # by which the clocks of nodes may differ


class Warnings:
    """The newest Warning Event of each object. They are kept for an hour, so that each says its age."""

    def __init__(self, events: Iterable[Any] = ()) -> None:
        self._events: list[tuple[datetime, Any]] = []
        for event in events:
            if (seen := _last_seen(event)) is not None:
                self._events.append((seen, event))
        self._events.sort(key=lambda one: one[0], reverse=True)

    def of_pod(self, pod: Any) -> str:
        """The newest about this pod, not about one that had its name before; of a deleted pod what holds it."""
        born, deleted = pod.metadata.creation_timestamp, pod.metadata.deletion_timestamp is not None
        for seen, event in self._events:
            about = event.involved_object
            if (about.kind, about.name) != ("Pod", pod.metadata.name) or _is_another(about, pod):
                continue
            if isinstance(born, datetime) and (born - seen).total_seconds() > CLOCKS_S:
                continue
            if not deleted or event.reason in KEEPS_A_DELETED_POD:
                return _text(seen, event)
        return ""

    def about(self, kind: str, name: str) -> str:
        """The newest about an object of another kind; empty when there is none."""
        for seen, event in self._events:
            if (event.involved_object.kind, event.involved_object.name) == (kind, name):
                return _text(seen, event)
        return ""

    def why_not_created(self, workload: Any) -> str:
        """Why pods of a StatefulSet or Deployment that it should have do not exist; empty when they do."""
        conditions = workload.status.conditions or ()
        failures = [one.message for one in conditions if one.type == "ReplicaFailure" and one.status == "True"]
        if failures:
            return f"{NOT_CREATED}: {failures[0]}"
        desired = 1 if workload.spec.replicas is None else workload.spec.replicas
        if (workload.status.replicas or 0) >= desired:
            return ""
        name = re.escape(workload.metadata.name)
        for seen, event in self._events:
            about = event.involved_object
            own = about.kind == "StatefulSet" and re.fullmatch(name, about.name)
            of_set = about.kind == "ReplicaSet" and re.fullmatch(f"{name}-[a-z0-9]+", about.name)
            if event.reason == NOT_CREATED and (own or of_set):
                return _text(seen, event)
        return ""


def _is_another(about: Any, pod: Any) -> bool:
    return bool(about.uid and pod.metadata.uid and about.uid != pod.metadata.uid)


def _text(seen: datetime, event: Any) -> str:
    return f"{event.reason}: {event.message}{age(seen)}"


def _last_seen(event: Any) -> datetime | None:
    last = event.series.last_observed_time if event.series else None
    found = last or event.last_timestamp or event.event_time or event.metadata.creation_timestamp
    return found if isinstance(found, datetime) else None


def age(seen: datetime) -> str:
    """How long ago something was, in parentheses; empty for two minutes."""
    minutes = int((datetime.now(UTC) - seen).total_seconds()) // 60
    return f" ({minutes} min ago)" if minutes > 1 else ""
