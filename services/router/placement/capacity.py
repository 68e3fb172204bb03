"""Checks that the workers have the capacity for all experts, and says what is lacking. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from services.membership.numerics_class import fits
from services.membership.record import WorkerRecord
from services.membership.shortage import CapacityShortage
from services.membership.worker_order import ordinal
from services.router.placement.policy import WorkerView
from services.router.placement.table_view import TableView

SHOWN_CHARACTERS = 400  # of the reason of one worker


def shortage(plan: TableView, workers: Sequence[WorkerView]) -> CapacityShortage | None:
    """Returns the shortage of a plan that `policy.place` made for these workers.

    A draining worker is named when the plan leaves experts with it: they fit nowhere else. None when every expert is on
    a worker that stays.
    """
    draining = sorted((w.worker_id for w in workers if w.draining), key=ordinal)
    counts = plan.counts
    blocked = {worker_id: counts[worker_id] for worker_id in draining if worker_id in counts}
    if not blocked and not plan.missing:
        return None
    return CapacityShortage(_reason(plan.layers * plan.experts, workers), blocked)


def mismatched_workers(classes: Mapping[str, str], numerics_class: str) -> str:
    """Names the workers whose numerics class is not the table's; empty when there is none. `classes`: by worker id."""
    others = sorted((one for one, its in classes.items() if not fits(its, numerics_class)), key=ordinal)
    if not numerics_class or not others:
        return ""
    names = ", ".join(others[:4]) + (f" and {len(others) - 4} more" if len(others) > 4 else "")
    verb = "is" if len(others) == 1 else "are"
    why = "weights, dtype, kernels, device or CARACAL_DISPATCH_DTYPE differ"
    return f"{names} {verb} left out, of another numerics class than the table: {why}"


def left_out(records: Collection[WorkerRecord], numerics_class: str) -> str:
    """Names the workers that serve by no table of this class, or compute wrongly, and says why; empty when there is
    none."""
    others = {r.worker_id: r.numerics_class for r in records if not r.refused}
    refused, wrong = {r.worker_id: r.refused for r in records}, {r.worker_id: r.quarantined for r in records}
    why = mismatched_workers(others, numerics_class), refused_workers(refused), refused_workers(wrong, "quarantined")
    return "; ".join(filter(None, why))


def refused_workers(reasons: Mapping[str, str], word: str = "refused") -> str:
    """Names the workers that must not serve, and says why; empty when there is none. `reasons`: by worker id."""
    refused = sorted((one for one, why in reasons.items() if why), key=ordinal)
    more = f"; and {len(refused) - 4} more are {word}" if len(refused) > 4 else ""
    return "; ".join(f"{one} is {word}: {reasons[one][:SHOWN_CHARACTERS]}" for one in refused[:4]) + more


def _reason(experts: int, workers: Sequence[WorkerView]) -> str:
    if not workers:
        return f"no expert worker: experts need {experts} places"
    # Without the workers of unlimited capacity (0): there would be no shortage if one of them stayed.
    available = sum(worker.capacity for worker in workers if not worker.draining)
    sizes = {worker.capacity for worker in workers}
    size = 0 if 0 in sizes else max(sizes)
    more = max(1, -(-(experts - available) // size)) if size else 1
    what = f"{more} more expert worker{'s' if more > 1 else ''}" + (f" of {size}" if size else "")
    have = f"experts need {experts} places, the workers that stay have {available}"
    return f"{have}: bring at least {what}" + (", or raise their capacity" if size else "")
