"""Where tokens meet experts: `start` sends them, `finish` brings the answers home.

Legend: T tokens, K slots, D hidden, E gate outputs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from caracal_kernels import route_rows
from caracal_proto import placement_pb2
from torch import Tensor

from services.checkpoint.config import ModelConfig
from services.router.dispatch.expert_workers import ExpertWorkerPool, nothing
from services.router.dispatch.links import Connect
from services.router.dispatch.moe_handle import MoEHandle, Timeouts
from services.router.dispatch.send import RoutedBatch, send
from services.router.dispatch.stats import DispatchStats
from services.router.dispatch.table import CPU


class GateLike(Protocol):
    """One layer's router, fp32."""

    @property
    def classifier_ED(self) -> Tensor: ...

    @property
    def bias_E(self) -> Tensor: ...


class StepLike(Protocol):
    """What the exchange wants to know of a step: its number, and each token's absolute position (int32)."""

    @property
    def number(self) -> int: ...

    @property
    def positions_T(self) -> Tensor: ...


class MoEDispatcher:
    """The data half of the router, linked into an attention worker.

    `start` and `finish` belong to the engine's thread; `apply` and `epoch` to any.
    overlap=False waits in `start` already: for measuring what the shortcut hides, nothing else. `device` is the
    model's, where hidden rows lie and the plan is made; `wire` is what the links send rows in, to count bytes by.
    """

    def __init__(
        self,
        connect: Connect,
        config: ModelConfig,
        *,
        overlap: bool = True,
        expert_wait_s: float = 30.0,
        call_timeout_s: float = 20.0,
        refresh: Callable[[], None] = nothing,
        device: torch.device = CPU,
        wire: torch.dtype | None = None,
    ) -> None:
        self.stats = DispatchStats.of(config.num_layers)
        self._pool = ExpertWorkerPool(connect, config.num_layers, config.n_routed_experts, refresh, device, wire)
        self._timeouts = Timeouts(min(call_timeout_s, expert_wait_s), expert_wait_s)
        self._overlap = overlap
        self._drop = config.zero_expert_type == "drop"
        self._gate = config.moe_topk, config.n_routed_experts, config.routed_scaling_factor, config.norm_topk_prob

    @property
    def epoch(self) -> int:
        """Of the table in force; 0 before the first."""
        return self._pool.table.epoch

    def apply(self, table: placement_pb2.Table) -> int:
        """Puts a table in force unless a newer one is; returns the epoch in force. Raises TableError."""
        return self._pool.apply(table)

    def start(self, layer: int, h_TD: Tensor, gate: GateLike, step: StepLike) -> MoEHandle:
        """Gate, then rows out, once per worker; zero experts are settled here. Returns before anything has arrived."""
        table = self._pool.view
        replicas = table.layers[layer]
        (ids_TK, weights_TK, zero_T), plan = route_rows(
            h_TD,
            gate.classifier_ED,
            gate.bias_E,
            *self._gate,
            step.positions_T,
            layer,
            replicas.offset_F,
            replicas.worker,
            len(table.workers),
        )
        if self._drop:
            zero_T = zero_T.new_zeros(len(zero_T))
        batch = RoutedBatch(layer, step.number, self._gate[1], step.positions_T, h_TD, ids_TK, weights_TK, zero_T)
        sent = send(self._pool, table, replicas, batch, plan, self._timeouts.call_s)
        stats = self.stats.layers[layer]
        pending = MoEHandle(self._pool, batch, sent, self._timeouts, stats)
        stats.count_start(sent, batch)
        if not self._overlap:
            pending.wait()
        return pending

    def close(self) -> None:
        """Ends every session."""
        self._pool.close()
