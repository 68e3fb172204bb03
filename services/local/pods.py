"""What there is to see of a release on Kubernetes: `caracal status --context`. Objects are as the API gives them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Table

from services.local.state import NoCluster
from services.local.status import look

if TYPE_CHECKING:
    from services.local.kube import Release

COMPONENT = "app.kubernetes.io/component"


def show(release: Release) -> None:
    """Workloads, pods, why one does not start, and what a router that is ready knows. Raises NoCluster."""
    console = Console()
    workloads, pods = release.workloads(), release.pods()
    console.print(f"release {release.name} in namespace {release.namespace} of {release.context}", markup=False)
    console.print(_table(("workload", "wanted", "ready"), [_workload(one) for one in workloads]))
    console.print(_table(("pod", "state", "ready", "restarts", "node"), [_pod(pod) for pod in pods]))
    for pod in pods:
        if why := last_words(pod):
            console.print(f"{pod.metadata.name}: {why}", markup=False)
    router = next((pod.metadata.name for pod in pods if role_of(pod) == "router" and is_ready(pod)), "")
    if not router:
        console.print("no router is ready: nothing is known of the workers")
        return
    try:
        console.print(look(release.overview(router), router))
    except NoCluster as error:
        console.print(f"{router} tells nothing of the workers: {error}", markup=False)


def role_of(found: Any) -> str:
    return str((found.metadata.labels or {}).get(COMPONENT, ""))


def is_ready(pod: Any) -> bool:
    """It serves, and is not about to leave."""
    if pod.metadata.deletion_timestamp is not None:
        return False
    return any(one.type == "Ready" and one.status == "True" for one in pod.status.conditions or ())


def last_words(pod: Any) -> str:
    """Why a pod does not start: how its last run ended, or what it waits for; empty when there is nothing to tell."""
    if is_ready(pod):
        return ""
    for one in (*(pod.status.init_container_statuses or ()), *(pod.status.container_statuses or ())):
        ended = one.state.terminated or (one.last_state.terminated if one.last_state else None)
        if ended is not None and ended.exit_code:
            message = (ended.message or "").strip()  # may be the end of a log: the last line is the reason
            how = f"{ended.reason or 'Error'}, exit code {ended.exit_code}"
            return f"{message.splitlines()[-1]} ({how})" if message else how
        waiting = one.state.waiting
        if waiting is not None and waiting.reason not in (None, "ContainerCreating", "PodInitializing"):
            return f"{waiting.reason}: {waiting.message or 'no message'}"
    unmet = [one.message for one in pod.status.conditions or () if one.type == "PodScheduled" and one.status == "False"]
    return str(unmet[0] or "") if unmet else str(pod.status.message or "")


def _table(columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> Table:
    table = Table(*columns, box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False, collapse_padding=True)
    for row in rows:
        table.add_row(*row)
    return table


def _workload(one: Any) -> tuple[str, ...]:
    wanted = 1 if one.spec.replicas is None else one.spec.replicas
    return one.metadata.name, str(wanted), str(one.status.ready_replicas or 0)


def _pod(pod: Any) -> tuple[str, ...]:
    state = "leaving" if pod.metadata.deletion_timestamp is not None else str(pod.status.phase)
    restarts = sum(one.restart_count for one in pod.status.container_statuses or ())
    return pod.metadata.name, state, "yes" if is_ready(pod) else "no", str(restarts), pod.spec.node_name or "none yet"
