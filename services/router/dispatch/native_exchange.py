"""The exchange with experts, for native code that runs a step's layers by itself; and how Python goes on where it was
interrupted: MoEHandle deals with a reply that is missing or not finite, as if Python had sent the rows.

Legend: T tokens, D hidden, F FFN experts, W workers, A (row, expert) assignments, L layers, N counters.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import torch
from caracal_kernels import GateConfig
from caracal_kernels.plan_rows import Plan
from torch import Tensor

from services.router.dispatch.dispatch_span import dispatch_span
from services.router.dispatch.expert_workers import ExpertWorkerPool
from services.router.dispatch.links import Sessions
from services.router.dispatch.moe_handle import MoEHandle, Timeouts
from services.router.dispatch.send import RoutedBatch, StepLike, sent_together
from services.router.dispatch.stats import DispatchStats
from services.router.dispatch.table import RoutingTable


class InterruptedLayer(Protocol):
    """A layer whose rows were sent natively, and whose replies have not all come or are not finite."""

    h: Tensor  # [T, D]
    ids: Tensor
    weights: Tensor
    zero: Tensor
    y: Tensor  # [A, D]: the replies that have come, at their places
    plan: Plan
    sent_s: float  # of time.perf_counter, as is the next
    waits_since_s: float

    def take_exchange(self) -> object:
        """The calls themselves, in a capsule, once."""
        ...


class KeptLayer(Protocol):
    """A layer whose rows were sent natively, and whose replies have all come."""

    step: int
    layer: int
    h: Tensor  # [T, D]
    y: Tensor  # [A, D]
    plan: Plan


class NativeExchange:
    """One placement table and the sessions with all of its workers, as native code takes them."""

    def __init__(
        self,
        pool: ExpertWorkerPool,
        table: RoutingTable,
        sessions: Sessions,
        gate: GateConfig,
        drops_zero: bool,
        timeouts: Timeouts,
        stats: DispatchStats,
    ) -> None:
        self.table, self.sessions = table, sessions
        self._pool, self._timeouts, self._stats = pool, timeouts, stats
        self.scatterer, self.generation, self.serial_W = sessions.scatterer, sessions.generation, sessions.serial_W
        self.epoch, self.wire_dtype, self.timeout_s = table.epoch, sessions.wire_dtype, timeouts.call_s
        self.replica_offset_LF = [layer.offset_F for layer in table.layers]
        self.replica_worker_L = [layer.worker for layer in table.layers]
        self.gate, self.drops_zero = gate, drops_zero
        self.leaves_overdue = pool.hedges
        self.count_LN, self.seconds_LN = stats.count_LN, stats.seconds_LN
        self.shadow = pool.shadow.share.of_2_32

    def takes(self, tokens: int, dtype: torch.dtype) -> bool:
        """Whether so many rows may be sent, all of them to one worker if it comes to that."""
        sessions = self.sessions
        return (
            dtype == sessions.dtype
            and tokens <= sessions.max_rows
            and tokens * self.gate.top_k <= sessions.max_assignments
        )

    def count_calls(self, messages: int) -> None:
        """Counts messages that native code has sent."""
        self.sessions.count_calls(messages)

    def keep(self, layers: Iterable[KeptLayer]) -> None:
        """Takes layers whose calls are to be computed again by other workers."""
        for one in layers:
            self._pool.shadow.offer(self.table.keys, one.step, one.layer, one.h, one.plan, one.y)

    def resume(self, layer: int, step: StepLike, interrupted: InterruptedLayer) -> MoEHandle:
        """What goes on with an interrupted layer: it takes in what has come and asks again for the rest."""
        moe, plan = interrupted, interrupted.plan
        batch = RoutedBatch(
            layer,
            step.number,
            self.gate.num_ffn,
            step.positions_T,
            moe.h,
            moe.ids,
            moe.weights,
            moe.zero,
            dispatch_span(layer),
        )
        scatter = self.sessions.adopt(moe.take_exchange(), moe.y, (moe.h, plan, self.serial_W, moe.y))
        replicas = self.table.layers[layer]
        sent = sent_together(self._pool, self.table, replicas, batch, plan, scatter, sent_s=moe.sent_s)
        times = moe.sent_s, moe.waits_since_s
        return MoEHandle(self._pool, batch, sent, self._timeouts, self._stats.counted[layer], times)
