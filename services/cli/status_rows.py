"""The rows of `caracal status`: one for each worker, or one for many workers of the same role and state."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby

from services.cli.scale import serves
from services.membership.record import WorkerRecord
from services.membership.worker_order import ordinal

# Short, since the table should fit 80 columns. `run+wait` counts sequences, `zero` is the share of top-k choices that
# fell on zero experts, `exposed` the wait for experts per layer and its share of the round trip.
COLUMNS = ("worker", "state", "experts", "KV", "run+wait", "zero", "exposed", "metrics")
# What a narrow terminal does without, the first one first. Worker and state are always there.
OPTIONAL = ("zero", "exposed", "metrics", "KV", "experts", "run+wait")
FOLDED = 9  # so many workers of one role and state share a row

Row = tuple[str, ...]


def rows(records: Iterable[WorkerRecord], fold: bool = True) -> list[Row]:
    """Returns the cells of every row; without `fold`, one for each worker."""
    ordered = sorted(records, key=lambda record: (record.role != "router", record.role, ordinal(record.worker_id)))
    if not fold:
        return [_row([record]) for record in ordered]
    found = []
    by_kind = sorted(ordered, key=lambda record: (record.role != "router", record.role, state_of(record)))
    for _, group in groupby(by_kind, key=lambda record: (record.role, state_of(record))):
        same = list(group)
        found += [_row(same)] if len(same) >= FOLDED else [_row([record]) for record in same]
    return found


def _row(same: Sequence[WorkerRecord]) -> Row:
    first, last = same[0], same[-1]
    name = first.worker_id if len(same) == 1 else f"{len(same)}: {first.worker_id} … {last.worker_id}"
    experts = _span([record.loaded for record in same]) if first.role == "expert" else ""
    metrics = first.metrics_address if len(same) == 1 else ""
    if first.role != "attention":
        return name, state_of(first), experts, "", "", "", "", metrics
    return (
        name,
        state_of(first),
        experts,
        _span([round(100 * used) for record in same if (used := _kv_usage(record)) is not None], "%"),
        f"{_sum(same, 'running'):.0f}+{_sum(same, 'waiting'):.0f}",
        f"{_sum(same, 'zero_share') / len(same):.0%}",
        _exposed(same),
        metrics,
    )


def state_of(record: WorkerRecord) -> str:
    """One word: serving, joining or draining."""
    return "draining" if record.draining else "serving" if record.role == "router" or serves(record) else "joining"


def _kv_usage(record: WorkerRecord) -> float | None:
    total = record.stats.get("kv_pages_total", 0.0)
    return record.stats.get("kv_pages_used", 0.0) / total if total else None


def _exposed(same: Sequence[WorkerRecord]) -> str:
    """The mean wait for experts per layer, and its share of the round trip."""
    waited = [record for record in same if record.stats.get("round_trip_s_per_layer")]
    if not waited:
        return ""
    exposed, trip = _sum(waited, "exposed_s_per_layer"), _sum(waited, "round_trip_s_per_layer")
    return f"{exposed / len(waited) * 1e6:.0f} µs {exposed / trip:.0%}"


def _sum(same: Iterable[WorkerRecord], name: str) -> float:
    return sum(record.stats.get(name, 0.0) for record in same)


def _span(values: Sequence[int], unit: str = "") -> str:
    """The least and the most of the values."""
    if not values:
        return ""
    least, most = min(values), max(values)
    return f"{least}{unit}" if least == most else f"{least}–{most}{unit}"
