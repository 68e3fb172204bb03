"""Whether a plan has room for all experts among the workers that stay, and in words what is lacking. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from services.membership.shortage import CapacityShortage
from services.router.placement.policy import TableView, WorkerView, ordinal


def shortage(plan: TableView, workers: Sequence[WorkerView]) -> CapacityShortage | None:
    """Of a plan made by `policy.place` for these workers; None when every expert has a place that stays.

    A draining worker is named when the plan leaves experts with it: they fit nowhere else.
    """
    leaving = sorted((w.worker_id for w in workers if w.draining), key=ordinal)
    kept = {worker_id: count for worker_id in leaving if (count := len(plan.of(worker_id)))}
    if not kept and not plan.missing:
        return None
    return CapacityShortage(_lacking(sum(1 for _ in plan.items()), workers), kept)


def mismatched_workers(classes: Mapping[str, str], numerics_class: str) -> str:
    """Who cannot serve beside the others, in words, of workers and their classes; empty when there is nobody."""
    others = sorted((worker_id for worker_id, its in classes.items() if its != numerics_class), key=ordinal)
    if not numerics_class or not others:
        return ""
    names = ", ".join(others[:4]) + (f" and {len(others) - 4} more" if len(others) > 4 else "")
    verb = "is" if len(others) == 1 else "are"
    why = "weights, dtype, kernels, device or CARACAL_DISPATCH_DTYPE differ"
    return f"{names} {verb} left out, of another numerics class than the table: {why}"


def _lacking(experts: int, workers: Sequence[WorkerView]) -> str:
    if not workers:
        return f"no expert worker: experts need {experts} places"
    # One that may hold any number and stays leaves nothing to refuse.
    room = sum(worker.capacity for worker in workers if not worker.draining)
    sizes = {worker.capacity for worker in workers}
    size = 0 if 0 in sizes else max(sizes)
    more = max(1, -(-(experts - room) // size)) if size else 1
    what = f"{more} more expert worker{'s' if more > 1 else ''}" + (f" of {size}" if size else "")
    have = f"experts need {experts} places, the workers that stay have {room}"
    return f"{have}: bring at least {what}" + (", or raise their capacity" if size else "")
