"""Which of a release's Jobs fail, and why: pods wait for what they make. `Any` stands for API objects."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from services.cli.kube.diagnosis import not_ready_reason, role_of
from services.cli.kube.events import Warnings
from services.cli.kube.kubeconfig import one_line

JOB_OF_POD = "batch.kubernetes.io/job-name"


def failing(jobs: Iterable[Any], pods: Iterable[Any], warnings: Warnings) -> dict[str, str]:
    """Why each Job that has not completed does not, by its name; of several of a component only the newest counts."""
    newest: dict[str, Any] = {}
    for job in sorted(jobs, key=_made):
        newest[role_of(job)] = job
    by_job: dict[str, list[Any]] = {}
    for pod in pods:
        by_job.setdefault(str((pod.metadata.labels or {}).get(JOB_OF_POD, "")), []).append(pod)
    found = {job.metadata.name: _reason(job, by_job.get(job.metadata.name, []), warnings) for job in newest.values()}
    return {name: why for name, why in found.items() if why}


def _made(job: Any) -> datetime:
    made = job.metadata.creation_timestamp
    return made if isinstance(made, datetime) else datetime.min.replace(tzinfo=UTC)


def _reason(job: Any, pods: list[Any], warnings: Warnings) -> str:
    conditions = {one.type: one for one in job.status.conditions or () if one.status == "True"}
    if "Complete" in conditions or job.status.succeeded:
        return ""
    if failed := conditions.get("Failed"):
        return one_line(f"{failed.reason or 'Failed'}: {failed.message or 'no message'}")
    reasons = (not_ready_reason(pod, warnings.of_pod(pod)) for pod in pods)
    return next(filter(None, reasons), "") or ("" if pods else warnings.about("Job", job.metadata.name))
