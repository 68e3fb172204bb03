"""Which tensors make an expert of one worker differ from the same expert elsewhere."""

from __future__ import annotations

from collections.abc import Iterable

from services.membership.record import WorkerRecord
from services.router.placement.worker_client import CallFailed, Workers

MOST_ASKED = 4  # workers, for what the expert is elsewhere


async def differing_tensors(
    workers: Workers, record: WorkerRecord, others: Iterable[WorkerRecord], layer: int, expert: int
) -> str:
    """Names files and tensors, as the beginning of a message; empty where nobody can say.

    Without another worker that has the expert, all of its tensors are named.
    """
    try:
        its = await workers.tensors(record, layer, expert)
    except CallFailed:
        return ""
    asked = 0
    for other in others:
        if asked == MOST_ASKED:
            break
        try:
            known = await workers.tensors(other, layer, expert)
        except CallFailed:
            continue  # it has not loaded the expert
        asked += 1
        wrong = [one for one, right in zip(its, known, strict=False) if one.checksum != right.checksum]
        if wrong:
            return (
                "; ".join(
                    f"{one.file}: {one.tensor}: its bytes have the CRC-32 {one.checksum:08x}, "
                    f"at {other.worker_id} {right.checksum:08x}"
                    for one, right in zip(its, known, strict=False)
                    if one.checksum != right.checksum
                )
                + ": "
            )
    return "one of " + ", ".join(f"{one.file}: {one.tensor}" for one in its) + ": " if its else ""
