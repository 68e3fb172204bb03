"""Sends a layer's tokens to their experts: `start` sends the rows, the handle's `finish` combines the replies.

Legend: T tokens, K choices, D hidden, G gate outputs.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from caracal_kernels import GateConfig, GateWeights, route_rows
from caracal_proto import placement_pb2
from torch import Tensor

from services.checkpoint.config import ModelConfig
from services.router.dispatch.call_latency import HedgeOptions
from services.router.dispatch.dispatch_span import dispatch_span
from services.router.dispatch.expert_workers import ExpertWorkerPool, nothing
from services.router.dispatch.links import Connect
from services.router.dispatch.moe_handle import MoEHandle, Timeouts
from services.router.dispatch.native_exchange import NativeExchange
from services.router.dispatch.send import RoutedBatch, StepLike, send
from services.router.dispatch.shadow_calls import ShadowOptions, ShadowStats
from services.router.dispatch.stats import DispatchStats
from services.router.dispatch.table import CPU


class MoEDispatcher:
    """Routes an attention worker's tokens to expert workers.

    The engine's thread calls `start`, `exchange` and the handle's `finish`; any thread may call `apply` and `epoch`.
    overlap=False waits in `start` already: only for measuring what the shortcut hides. `device` is the model's, where
    hidden rows lie and the plan is made; `dispatch_dtype` is the dtype in which the links send rows, to count bytes.
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
        dispatch_dtype: torch.dtype | None = None,
        hedging: HedgeOptions = HedgeOptions(),  # noqa: B008  frozen
        shadow: ShadowOptions = ShadowOptions(),  # noqa: B008  frozen
    ) -> None:
        self.stats = DispatchStats.of(config.num_layers)
        self._pool = ExpertWorkerPool(
            connect, config.num_layers, config.n_routed_experts, refresh, device, dispatch_dtype, hedging, shadow
        )
        self._timeouts = Timeouts(min(call_timeout_s, expert_wait_s), expert_wait_s)
        self._overlap = overlap
        self._exchange: NativeExchange | None = None
        self._drops_zero = config.zero_expert_type == "drop"
        self._gate = GateConfig(
            top_k=config.moe_topk,
            num_ffn=config.n_routed_experts,
            scale=config.routed_scaling_factor,
            norm_topk=config.norm_topk_prob,
        )

    @property
    def epoch(self) -> int:
        """The current table's epoch; 0 before the first table."""
        return self._pool.table.epoch

    @property
    def progress(self) -> int:
        """Changes whenever a layer begins, and while replies are waited for."""
        return self.stats.layer_calls + self._pool.looks

    @property
    def suspects(self) -> int:
        """How many expert workers are avoided now."""
        return len(self._pool.health.suspects)

    @property
    def shadow_stats(self) -> ShadowStats:
        """What computing calls again has found."""
        return self._pool.shadow.stats

    @property
    def shadow_waiting(self) -> int:
        """Layers' calls that are to be computed again."""
        return self._pool.shadow.waiting

    def look_closely(self, seconds: float) -> None:
        """Has all calls computed again for so long, if any are."""
        self._pool.shadow.look_closely(seconds)

    @property
    def knows_latencies(self) -> bool:
        """Whether it is known of some worker when calls to it are overdue."""
        return self._pool.health.knows_latencies

    def apply(self, table: placement_pb2.Table) -> int:
        """Makes a table the current one unless it is older; returns the current epoch. Raises TableError."""
        return self._pool.apply(table)

    def start(self, layer: int, h_TD: Tensor, gate: GateWeights, step: StepLike) -> MoEHandle:
        """Runs the gate and sends the rows, one message per worker; zero experts are computed here.

        Returns before anything has arrived.
        """
        table, config = self._pool.view, self._gate
        replicas = table.layers[layer]
        routed = route_rows(
            h_TD,
            gate.classifier_GD,
            gate.bias_G,
            config.top_k,
            config.num_ffn,
            config.scale,
            config.norm_topk,
            step.positions_T,
            layer,
            replicas.offset_F,
            replicas.worker,
            len(table.workers),
        )
        (ids_TK, weights_TK, zero_T), plan = routed[:3], routed[3:]
        if self._drops_zero:
            zero_T = zero_T.new_zeros(len(zero_T))
        span = dispatch_span(layer)
        batch = RoutedBatch(
            layer, step.number, config.num_ffn, step.positions_T, h_TD, ids_TK, weights_TK, zero_T, span
        )
        sent = send(self._pool, table, replicas, batch, plan, self._timeouts.call_s)
        if span is not None:
            span.sent(sent.rows, sent.assignments, sent.messages)
        stats = self.stats.counted[layer]
        handle = MoEHandle(self._pool, batch, sent, self._timeouts, stats)
        stats.count_start(sent, batch)
        if not self._overlap:
            handle.wait()
        return handle

    def exchange(self, tokens: int, dtype: torch.dtype) -> NativeExchange | None:
        """What native code needs to exchange so many rows of a dtype, on the CPU, with experts by itself.

        None when some of it needs Python: a worker that rows go to has no native session, an expert has no replica,
        rows travel in another dtype, or there are more than sessions take.
        """
        found = self._pool.sessions() if self._overlap else None
        if found is None:
            return None
        table, sessions = found
        exchange = self._exchange
        if exchange is None or exchange.sessions is not sessions or exchange.table is not table:
            exchange = self._exchange = NativeExchange(
                self._pool, table, sessions, self._gate, self._drops_zero, self._timeouts, self.stats
            )
        return exchange if exchange.takes(tokens, dtype) else None

    def close(self) -> None:
        """Ends every session."""
        self._pool.close()
