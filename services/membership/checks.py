"""What a record may say, whoever has written it: texts, counts, addresses, epochs and tables; pure.

Epochs only grow, so one that is believed is never taken back. Therefore nobody believes one that is too far ahead of
what is known: no single record or call can use them up (docs/decisions/0030-cluster-key.md).
"""

from __future__ import annotations

import re

from caracal_proto.placement_pb2 import Table
from caracal_proto.placements import MAX_WORKERS

MAX_EPOCH = 1 << 62  # no valid epoch gets there; counting on from a value that does would overflow
MAX_EPOCH_STEP = 1_000_000  # a thousand leaders' terms at once
MAX_COUNT = 1 << 53
MAX_TEXT = 512  # characters of an id, an address, a class

_HOST = r"(?:[A-Za-z0-9](?:[A-Za-z0-9._-]{0,251})|\[[0-9A-Fa-f:.]{2,45}(?:%[A-Za-z0-9._-]{1,32})?\])"
_ADDRESS = re.compile(rf"{_HOST}:[1-9][0-9]{{0,4}}", re.ASCII)


def is_address(text: str) -> bool:
    """Whether it is HOST:PORT, and nothing that gRPC would take for another kind of target, such as unix: or xds:."""
    return _ADDRESS.fullmatch(text) is not None and int(text.rpartition(":")[2]) < 1 << 16


def is_text(value: str, most: int = MAX_TEXT) -> bool:
    """Whether it can be sent, logged and shown: no control characters, no half of a surrogate, not too long."""
    return len(value) <= most and (value.isprintable() or not value)


def epoch_violation(epoch: int, known: int) -> str:
    """Why nobody who knows of the epoch `known` believes in this one; empty when it may be."""
    if epoch >= MAX_EPOCH or epoch > known + MAX_EPOCH_STEP:
        return f"epoch {epoch} is too far ahead of {known}: at most {MAX_EPOCH_STEP} at once"
    return ""


def table_violation(table: Table) -> str:
    """What is wrong with the workers that a table names; empty when nothing is."""
    if len(table.workers) > MAX_WORKERS:
        return f"it names {len(table.workers)} workers, the limit is {MAX_WORKERS}"
    seen: set[str] = set()
    for worker in table.workers:
        if not (worker.worker_id and is_text(worker.worker_id) and worker.boot_id and is_text(worker.boot_id)):
            return "it names a worker whose worker_id or boot_id is empty, too long or not printable"
        if not is_address(worker.address):
            return f"worker {worker.worker_id} has the address {worker.address[:80]!r}, not HOST:PORT"
        if worker.worker_id in seen:
            return f"it names worker {worker.worker_id} twice"
        seen.add(worker.worker_id)
    return ""
