"""What the leader knows of the experts' load, and how many experts may move for it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

import numpy as np

from services.membership.record import WorkerRecord
from services.router.placement.balance_budget import BalanceBudget
from services.router.placement.load import Load
from services.router.placement.load_reader import read_load
from services.router.placement.plan import Shape
from services.router.placement.worker_client import Workers

LOAD_S = 30.0  # between two readings of the load


class Balancer:
    """Without a `budget`, the load is never read and no expert moves for it."""

    def __init__(self, workers: Workers, shape: Shape, budget: BalanceBudget | None, interval_s: float) -> None:
        self._workers, self._shape, self._budget, self._interval_s = workers, shape, budget, interval_s
        self.load: Load | None = None  # as it was read last
        self._reading: asyncio.Task[None] | None = None
        self.forget()

    @property
    def is_due(self) -> bool:
        """Whether the load is to be read again."""
        if self._reading is not None:
            if not self._reading.done():
                return False
            self._reading.result()
            self._reading = None
        return self._budget is not None and time.monotonic() >= self._read_at + self._interval_s

    def begin_read(self, holders: Sequence[WorkerRecord]) -> None:
        """Begins to read the load of the workers that have experts, beside everything else.

        What was known stays when one does not answer, or when the table changes meanwhile.
        """
        self._reading = asyncio.create_task(self._read(holders))

    async def _read(self, holders: Sequence[WorkerRecord]) -> None:
        load = await read_load(self._workers, holders, self._shape.layers, self._shape.experts)
        self._read_at = time.monotonic()
        if load is not None:
            self.load, self._balanced = load, False
            self._workers.wake()

    def moves(self) -> int:
        """How many experts may be loaded for balance now: none twice for one reading."""
        return 0 if self._balanced or self._budget is None else self._budget.moves(time.monotonic())

    def table_changed(self, loaded: int) -> None:
        """Takes what a change has cost: experts that workers loaded, for whatever reason."""
        self._balanced = True
        self._cancel()
        if self._budget is not None:
            self._budget.spend(loaded, time.monotonic())

    def allow(self, budget: BalanceBudget | None) -> None:
        """Balances from now on with that budget."""
        self._budget = budget
        self.forget()

    def forget(self) -> None:
        """Forgets the load: another router led meanwhile."""
        self._cancel()
        self._read_at = time.monotonic()
        self._balanced = True  # whether experts have moved for this load already
        if self._budget is not None:  # no rows: what an earlier leader has balanced is to stay as it is
            self.load = Load(np.zeros(self._shape.layers * self._shape.experts), window_s=1.0)

    def _cancel(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
            self._reading = None
