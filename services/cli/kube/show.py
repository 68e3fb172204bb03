"""`caracal status --context`: prints the state of a release on Kubernetes. `Any` stands for API objects."""

from __future__ import annotations

import json
from itertools import groupby
from typing import TYPE_CHECKING, Any

from rich.console import Console

from services.cli.fitting_table import FittingTable
from services.cli.kube.diagnosis import grouped, is_ready, role_of
from services.cli.run_state import NoCluster
from services.cli.status import View, render
from services.cli.status_rows import FOLDED

if TYPE_CHECKING:
    from services.cli.kube.release import Release

POD_COLUMNS = ("pod", "state", "ready", "restarts", "node")
MAX_ROUTERS_ASKED = 3  # each that does not answer costs seconds


def show(release: Release, view: View = render, every: bool = False) -> bool:
    """Prints workloads, pods, why some are not ready, and the workers that a router knows. Raises NoCluster.

    `every`: also pods of one kind each in a row of its own, however many there are.
    Returns whether requests can be served: some router is ready and does not report the opposite.
    """
    console = Console()
    workloads, pods = release.workloads(), release.pods()
    console.print(f"release {release.name} in namespace {release.namespace} of {release.context}", markup=False)
    console.print(FittingTable(("workload", "desired", "ready"), [_workload(one) for one in workloads]))
    console.print(FittingTable(POD_COLUMNS, _pods(pods, fold=not every), ("node", "restarts")))
    for line in grouped(release.reasons(workloads, pods) | release.failing_jobs()):
        console.print(line, markup=False)
    return _show_workers(console, release, [pod for pod in pods if role_of(pod) == "router"], view)


def show_json(release: Release) -> bool:
    """Prints the same as one JSON object, and returns the same. Raises NoCluster."""
    workloads, pods = release.workloads(), release.pods()
    reasons = release.reasons(workloads, pods)
    routers = [pod for pod in pods if role_of(pod) == "router" and is_ready(pod)]
    overview, why = None, "" if routers else "no router is ready"
    for pod in routers[:MAX_ROUTERS_ASKED]:
        try:
            overview = release.overview(pod)
            why = overview.not_ready_reason
            break
        except NoCluster as error:
            why = str(error)
    found = {
        "release": release.name,
        "namespace": release.namespace,
        "context": release.context,
        "workloads": [
            dict(zip(("name", "desired", "ready"), _workload(one), strict=True))
            | {"reason": reasons.get(one.metadata.name, "")}
            for one in workloads
        ],
        "pods": [
            dict(zip(POD_COLUMNS, _pod(pod), strict=True)) | {"reason": reasons.get(pod.metadata.name, "")}
            for pod in pods
        ],
        "jobs": [{"name": name, "reason": why} for name, why in release.failing_jobs().items()],
        "cluster": overview.to_dict() if overview else None,
        "serving": bool(routers) and not (overview and why),
        "not_ready_reason": why,
    }
    print(json.dumps(found))
    return bool(found["serving"])


def _show_workers(console: Console, release: Release, routers: list[Any], view: View) -> bool:
    """Prints the workers that the first answering router knows, a ready one if there is any. Returns as `show` does."""
    ready = [pod for pod in routers if is_ready(pod)]
    running = [pod for pod in routers if pod.status.phase == "Running" and pod.metadata.deletion_timestamp is None]
    if not ready:
        console.print("no router is ready: requests are not served", markup=False)
    for pod in (ready or running)[:MAX_ROUTERS_ASKED]:
        name = pod.metadata.name
        try:
            if not ready:
                console.print(f"{name} is not ready: {release.not_ready(pod)}", markup=False)
            overview = release.overview(pod)
        except NoCluster as error:
            console.print(f"{name} does not report the workers: {error}", markup=False)
            continue
        console.print(view(overview, name))
        if ready and (why := overview.not_ready_reason):
            console.print(f"requests are not served: {why}", markup=False)
        return bool(ready) and not overview.not_ready_reason
    return bool(ready)


def _workload(one: Any) -> tuple[str, ...]:
    desired = 1 if one.spec.replicas is None else one.spec.replicas
    return one.metadata.name, str(desired), str(one.status.ready_replicas or 0)


def _pods(pods: list[Any], fold: bool) -> list[tuple[str, ...]]:
    """A row for each pod, or for many of one role in the same state."""
    found = []
    for (role, *same), group in groupby(pods, key=lambda pod: (role_of(pod), *_pod(pod)[1:4])):
        rows = [_pod(pod) for pod in group]
        if fold and len(rows) >= FOLDED:
            nodes = len({row[-1] for row in rows})
            rows = [(f"{len(rows)} {role}", *same, f"{nodes} node{'s' if nodes > 1 else ''}")]
        found += rows
    return found


def _pod(pod: Any) -> tuple[str, ...]:
    state = "Terminating" if pod.metadata.deletion_timestamp is not None else str(pod.status.phase)
    restarts = sum(one.restart_count for one in pod.status.container_statuses or ())
    return pod.metadata.name, state, "yes" if is_ready(pod) else "no", str(restarts), pod.spec.node_name or "none yet"
