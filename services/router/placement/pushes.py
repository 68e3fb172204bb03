"""Pushes the published table to new workers, and to those that missed it or have begun to drain since.

An expert worker that rejects it may lack what it is given, since the table of a leader that led no more has unloaded
that meanwhile. It is made to load it again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence, Set
from functools import partial

import structlog

from services.membership.numerics_class import fits
from services.membership.record import WorkerRecord
from services.router.placement.change import PublishedTable, push_table
from services.router.placement.tables import given_to
from services.router.placement.worker_client import CallFailed, Workers

log = structlog.get_logger(__name__)

RETRY_S = 1.0  # between two attempts at the same worker


def missed_by(took: Set[tuple[str, bool]], records: Sequence[WorkerRecord], numerics_class: str) -> list[WorkerRecord]:
    """Who is to get a table of a class and has not got it. `took`: (boot id, draining) of those that have. Pure."""
    missed = [r for r in records if (r.boot_id, r.draining) not in took]
    return [r for r in missed if fits(r.numerics_class, numerics_class) and not r.refused]


class Pushes:
    """Pushes of one table at a time. A worker that hangs must not keep the leader from noticing deaths."""

    def __init__(self, workers: Workers) -> None:
        self._workers = workers
        self._took: set[tuple[str, bool]] = set()  # (boot id, draining) of workers that have the table
        self._next_at = 0.0
        self._task: asyncio.Task[None] | None = None
        self._loading: dict[str, asyncio.Task[None]] = {}  # by boot id

    def forget(self) -> None:
        """Takes all workers for workers that have not got the table: it is another one now."""
        self._took = set()
        if self._task is not None:
            self._task.cancel()
            self._task = None
        for loading in self._loading.values():
            loading.cancel()

    def took(self, keys: Set[tuple[str, bool]]) -> None:
        """Takes (boot id, draining) of workers that have got the table."""
        self._took |= keys

    def begin(self, table: PublishedTable, records: Sequence[WorkerRecord]) -> None:
        """Begins to push to those of its numerics class that have not got it, unless a push still runs."""
        if self._task is not None:
            if not self._task.done():
                return
            self._task.result()
            self._task = None
        missed = missed_by(self._took, records, table.table.numerics_class)
        if missed and time.monotonic() >= self._next_at:
            self._task = asyncio.create_task(self._push(table, missed))

    async def _push(self, table: PublishedTable, missed: Sequence[WorkerRecord]) -> None:
        took = await push_table(self._workers, table, missed)
        self._took |= took
        for record in missed:
            if record.role == "expert" and (record.boot_id, record.draining) not in took:
                self._load(table, record)
        self._next_at = time.monotonic() + (RETRY_S if len(took) < len(missed) else 0.0)

    def _load(self, table: PublishedTable, record: WorkerRecord) -> None:
        """Makes a worker load what it is given, unless it is loading it."""
        if record.boot_id not in self._loading:
            task = self._loading[record.boot_id] = asyncio.create_task(_load_given(self._workers, table, record))
            task.add_done_callback(partial(self._loaded, record.boot_id))

    def _loaded(self, boot_id: str, _: asyncio.Task[None]) -> None:
        del self._loading[boot_id]


async def _load_given(workers: Workers, table: PublishedTable, record: WorkerRecord) -> None:
    item_N = given_to(table.table, record)
    if not len(item_N):
        return
    try:
        await workers.prepare(record, table.table.epoch, item_N, len(table.table.layers[0].replicas))
    except CallFailed as error:
        log.warning("a worker does not load what the table gives it", worker_id=record.worker_id, error=str(error))
