"""Why a pod does not serve, in one line, from the pod and its Events as the API gives them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from services.cli.kube.kubeconfig import one_line

SHOWN = 4  # pods named before "and N more"
STARTS = (None, "ContainerCreating", "PodInitializing")  # reasons to wait that tell nothing


def is_ready(pod: Any) -> bool:
    """It serves, and is not about to leave."""
    return not _leaves(pod) and any(one.type == "Ready" and one.status == "True" for one in pod.status.conditions or ())


def not_ready_reason(pod: Any, warning: str = "") -> str:
    """Empty when there is nothing to tell. `warning`: what an Event says, for a pod that itself says little."""
    if is_ready(pod):
        return ""
    own = _last_log_line(pod)
    return _tidy(own if own or _leaves(pod) else warning or _conditions(pod))


def newest_warnings(events: Iterable[Any]) -> dict[str, str]:
    """By name of pod, with its age: an Event is there for an hour, and what it tells may be over."""
    newest: dict[str, tuple[datetime, str]] = {}
    for event in events:
        seen = _seen(event)
        name = str(event.involved_object.name)
        if seen is not None and (name not in newest or seen > newest[name][0]):
            newest[name] = seen, f"{event.reason}: {event.message}{_ago(seen)}"
    return {name: words for name, (_, words) in newest.items()}


def grouped(reasons: Mapping[str, str]) -> list[str]:
    """One line for each reason of {pod: reason}, with the pods that share it; "" is none."""
    pods: dict[str, list[str]] = {}
    for name, why in reasons.items():
        if why:
            pods.setdefault(why, []).append(name)
    return [
        ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "") + f": {why}"
        for why, names in pods.items()
    ]


def _leaves(pod: Any) -> bool:
    return pod.metadata.deletion_timestamp is not None


def _last_log_line(pod: Any) -> str:
    """How the last run of a container ended, or what it or the scheduler waits for."""
    for one in _containers(pod):
        ended = one.state.terminated or (one.last_state.terminated if one.last_state else None)
        if ended is not None and ended.exit_code:
            message = (ended.message or "").strip()  # may be the end of a log: the last line is the reason
            how = f"{ended.reason or 'Error'}, exit code {ended.exit_code}"
            return f"{message.splitlines()[-1]} ({how})" if message else how
        waiting = one.state.waiting
        if waiting is not None and waiting.reason not in STARTS:
            return f"{waiting.reason}: {waiting.message or 'no message'}"
    unmet = [one.message for one in pod.status.conditions or () if one.type == "PodScheduled" and one.status == "False"]
    return str((unmet and unmet[0]) or pod.status.message or pod.status.reason or "")


def _conditions(pod: Any) -> str:
    """The poorest words: which container starts, or is not ready, or which condition is not met."""
    for one in _containers(pod):
        if one.state.waiting is not None and one.state.waiting.reason:
            return f"container {one.name}: {one.state.waiting.reason}"
    for one in pod.status.conditions or ():
        if one.status == "False" and (one.message or one.reason):
            return f"{one.type} is False: {one.message or one.reason}"
    return ""


def _containers(pod: Any) -> Iterable[Any]:
    return (*(pod.status.init_container_statuses or ()), *(pod.status.container_statuses or ()))


def _seen(event: Any) -> datetime | None:
    last = event.series.last_observed_time if event.series else None
    found = last or event.last_timestamp or event.event_time or event.metadata.creation_timestamp
    return found if isinstance(found, datetime) else None


def _ago(seen: datetime) -> str:
    minutes = int((datetime.now(UTC) - seen).total_seconds()) // 60
    return f" ({minutes} min ago)" if minutes > 1 else ""


def _tidy(words: str) -> str:
    """One line in which no sentence only repeats the end of the one before; the scheduler writes such."""
    kept: list[str] = []
    for sentence in one_line(words).split(". "):
        if not kept or not kept[-1].rstrip(".").endswith(sentence.rstrip(".") or "."):
            kept.append(sentence)
    return ". ".join(kept)


COMPONENT = "app.kubernetes.io/component"


def role_of(found: Any) -> str:
    return str((found.metadata.labels or {}).get(COMPONENT, ""))
