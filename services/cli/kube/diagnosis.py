"""Why a pod does not serve, in one line, from the pod and its Events as the API gives them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from services.cli.kube.events import age
from services.cli.kube.kubeconfig import one_line
from services.cli.log_lines import parse

COMPONENT = "app.kubernetes.io/component"
MAX_PODS_NAMED = 4  # the others are counted: "and N more"
FAILURES = ("error", "critical")  # levels of log lines
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
    if _is_deleted(pod):
        return _without_repeats(warning or "is being deleted")
    return _without_repeats(_specific_reason(pod) or warning or _earlier_end(pod) or _general_reason(pod))


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


def keeping_back(pods: Iterable[Any], counts: Mapping[str, int]) -> list[Any]:
    """The pods that keep roles from these counts: those to come that are not ready, else those that are to go."""
    found = []
    for role, count in counts.items():
        own = [pod for pod in pods if role_of(pod) == role]
        staying = [pod for pod in own if _ordinal(pod) < count and not is_ready(pod)]
        found += staying or [pod for pod in own if _ordinal(pod) >= count]
    return found


def _ordinal(pod: Any) -> int:
    number = str(pod.metadata.name).rpartition("-")[2]
    return int(number) if number.isdigit() else 0


def _is_deleted(pod: Any) -> bool:
    return pod.metadata.deletion_timestamp is not None


def _specific_reason(pod: Any) -> str:
    """How a container ended that does not run, else what one or the scheduler waits for."""
    for one in _containers(pod):
        ended = one.state.terminated or (
            one.last_state.terminated if one.last_state and not one.state.running else None
        )
        if ended is not None and ended.exit_code:
            return _end(ended)
        waiting = one.state.waiting
        if waiting is not None and waiting.reason not in STARTING:
            return f"{waiting.reason}: {waiting.message or 'no message'}"
    scheduling = [
        one.message for one in pod.status.conditions or () if one.type == "PodScheduled" and one.status == "False"
    ]
    return str((scheduling and scheduling[0]) or pod.status.message or pod.status.reason or "")


def _end(ended: Any) -> str:
    """How a container's run ended, with its last words if they are those of a failure.

    The message may be the tail of a log: of a process that was killed that is whatever it had to say last.
    """
    how = f"{ended.reason or 'Error'}, exit code {ended.exit_code}"
    lines = (ended.message or "").strip().splitlines()
    last = parse("", lines[-1]) if lines else None
    if last is None or (last.fields and last.level not in FAILURES):
        return how
    return f"{last.fields.get('event', last.text)} ({how})"


def _earlier_end(pod: Any) -> str:
    """How the run ended that a running container has had before, with its age."""
    for one in _containers(pod):
        ended = one.last_state.terminated if one.last_state and one.state.running else None
        if ended is not None and ended.exit_code:
            return f"starts again: {_end(ended)}" + (age(ended.finished_at) if _is_time(ended.finished_at) else "")
    return ""


def _is_time(found: Any) -> bool:
    return isinstance(found, datetime)


def _general_reason(pod: Any) -> str:
    """Which container is still starting, else which condition is False."""
    for one in pod.status.init_container_statuses or ():
        if one.state.running is not None:
            return f"init container {one.name} runs; how far it is: kubectl logs POD -c {one.name}"
    for one in _containers(pod):
        if one.state.waiting is not None and one.state.waiting.reason:
            return f"container {one.name}: {one.state.waiting.reason}"
    for one in pod.status.conditions or ():
        if one.status == "False" and (one.message or one.reason):
            return f"{one.type} is False: {one.message or one.reason}"
    return ""


def _containers(pod: Any) -> Iterable[Any]:
    return (*(pod.status.init_container_statuses or ()), *(pod.status.container_statuses or ()))


def _without_repeats(text: str) -> str:
    """One line without sentences that only repeat the end of the one before, as the scheduler writes them."""
    kept: list[str] = []
    for sentence in one_line(text).split(". "):
        if not kept or not kept[-1].rstrip(".").endswith(sentence.rstrip(".") or "."):
            kept.append(sentence)
    return ". ".join(kept)


def role_of(found: Any) -> str:
    return str((found.metadata.labels or {}).get(COMPONENT, ""))
