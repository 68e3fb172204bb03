"""Why a pod does not serve, in one line, from the pod and its Events as the API gives them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from services.cli.kube.kubeconfig import one_line

COMPONENT = "app.kubernetes.io/component"
MAX_PODS_NAMED = 4  # the others are counted: "and N more"
STARTING = (None, "ContainerCreating", "PodInitializing")  # waiting reasons that explain nothing


def is_ready(pod: Any) -> bool:
    """Whether a pod is Ready and is not being deleted."""
    return not _is_deleted(pod) and any(
        one.type == "Ready" and one.status == "True" for one in pod.status.conditions or ()
    )


def not_ready_reason(pod: Any, warning: str = "") -> str:
    """Why a pod does not serve; empty when it does, or no reason is known.

    `warning` is its newest Warning Event, used when its own status has no specific reason.
    """
    if is_ready(pod):
        return ""
    specific = _specific_reason(pod)
    return _without_repeats(specific if specific or _is_deleted(pod) else warning or _general_reason(pod))


def newest_warnings(events: Iterable[Any]) -> dict[str, str]:
    """The newest warning about each pod, by its name, with its age: Events are kept for an hour and may be outdated."""
    newest: dict[str, tuple[datetime, str]] = {}
    for event in events:
        seen = _last_seen(event)
        name = str(event.involved_object.name)
        if seen is not None and (name not in newest or seen > newest[name][0]):
            newest[name] = seen, f"{event.reason}: {event.message}{_age(seen)}"
    return {name: text for name, (_, text) in newest.items()}


def grouped(reasons: Mapping[str, str]) -> list[str]:
    """One line for each distinct reason in {pod: reason}, naming its pods; empty reasons are left out."""
    pods: dict[str, list[str]] = {}
    for name, why in reasons.items():
        if why:
            pods.setdefault(why, []).append(name)
    return [
        ", ".join(names[:MAX_PODS_NAMED])
        + (f" and {len(names) - MAX_PODS_NAMED} more" if len(names) > MAX_PODS_NAMED else "")
        + f": {why}"
        for why, names in pods.items()
    ]


def _is_deleted(pod: Any) -> bool:
    return pod.metadata.deletion_timestamp is not None


def _specific_reason(pod: Any) -> str:
    """How the last run of a container ended, else what a container or the scheduler waits for."""
    for one in _containers(pod):
        ended = one.state.terminated or (one.last_state.terminated if one.last_state else None)
        if ended is not None and ended.exit_code:
            message = (ended.message or "").strip()  # may be the tail of a log, whose last line is the reason
            how = f"{ended.reason or 'Error'}, exit code {ended.exit_code}"
            return f"{message.splitlines()[-1]} ({how})" if message else how
        waiting = one.state.waiting
        if waiting is not None and waiting.reason not in STARTING:
            return f"{waiting.reason}: {waiting.message or 'no message'}"
    scheduling = [
        one.message for one in pod.status.conditions or () if one.type == "PodScheduled" and one.status == "False"
    ]
    return str((scheduling and scheduling[0]) or pod.status.message or pod.status.reason or "")


def _general_reason(pod: Any) -> str:
    """Which container is still starting, else which condition is False."""
    for one in _containers(pod):
        if one.state.waiting is not None and one.state.waiting.reason:
            return f"container {one.name}: {one.state.waiting.reason}"
    for one in pod.status.conditions or ():
        if one.status == "False" and (one.message or one.reason):
            return f"{one.type} is False: {one.message or one.reason}"
    return ""


def _containers(pod: Any) -> Iterable[Any]:
    return (*(pod.status.init_container_statuses or ()), *(pod.status.container_statuses or ()))


def _last_seen(event: Any) -> datetime | None:
    last = event.series.last_observed_time if event.series else None
    found = last or event.last_timestamp or event.event_time or event.metadata.creation_timestamp
    return found if isinstance(found, datetime) else None


def _age(seen: datetime) -> str:
    minutes = int((datetime.now(UTC) - seen).total_seconds()) // 60
    return f" ({minutes} min ago)" if minutes > 1 else ""


def _without_repeats(text: str) -> str:
    """One line without sentences that only repeat the end of the one before, as the scheduler writes them."""
    kept: list[str] = []
    for sentence in one_line(text).split(". "):
        if not kept or not kept[-1].rstrip(".").endswith(sentence.rstrip(".") or "."):
            kept.append(sentence)
    return ". ".join(kept)


def role_of(found: Any) -> str:
    return str((found.metadata.labels or {}).get(COMPONENT, ""))
