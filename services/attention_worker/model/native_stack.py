"""Runs the layers of a step in one native call, without Python between the ops; says why where it cannot.

What the exchange with experts needs comes from the dispatcher. A layer whose replies are not all well is finished by
the dispatcher's own recovery, in Python, and the next layer is native again.
Legend: T tokens, B of them whose logits are wanted, V vocabulary, D hidden, F inner width, P pages of I positions,
L values of a latent, K = 2 D.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from caracal_kernels import GateWeights, MlaWeights, is_compiled
from torch import Tensor

from services.attention_worker.model.interfaces import DispatcherLike, ExchangeLike, ExchangingDispatcher
from services.attention_worker.model.layers_span import layers_span
from services.attention_worker.model.step import Step
from services.transport.native_extension import SOURCES as TRANSPORT_SOURCES
from services.transport.native_extension import why_unavailable

if TYPE_CHECKING:
    from services.attention_worker._native import Attention, Draft, Layer, Routes

NAME = "services.attention_worker._native"
SOURCES = Path(__file__).parents[1] / "native", TRANSPORT_SOURCES / "scatterer.h"


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionWeights:
    """One attention sublayer."""

    mla: MlaWeights
    scale: float
    latent: int
    blocks: tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerWeights:
    """Everything of one layer but its experts."""

    attention: Sequence[AttentionWeights]
    post_norm_D: Sequence[Tensor]
    norm_eps: float
    mlp: Sequence[tuple[Tensor, Tensor]]  # gate_up_2FD, down_DF
    gate: GateWeights


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadWeights:
    """What makes logits of the last layer's rows."""

    norm_D: Tensor
    norm_eps: float
    matrix_VD: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftWeights:
    """The block that guesses the token after the next one."""

    word_VD: Tensor
    token_norm_D: Tensor
    hidden_norm_D: Tensor
    join_DK: Tensor
    attention: AttentionWeights
    post_norm_D: Tensor
    mlp: tuple[Tensor, Tensor]  # gate_up_2FD, down_DF
    norm_D: Tensor
    norm_eps: float


@dataclass(frozen=True, slots=True)
class Reached:
    """How far a step has come: the next layer and its rows; when there is no next one, the logits, if they are made.

    `hidden_TD`: with a draft, what the head has read of all tokens.
    """

    layer: int
    x_TD: Tensor | None = None
    logits_BV: Tensor | None = None
    hidden_TD: Tensor | None = None


@cache
def unavailable() -> str:
    """Why layers cannot run natively in this process; empty when they can."""
    if not is_compiled():
        return "there are no compiled kernels"
    return why_unavailable(NAME, "the extension of native layers", *SOURCES)


class NativeStack:
    """The layers of one model, where nothing is `unavailable`. The engine's thread calls `run`."""

    def __init__(
        self, layers: Sequence[LayerWeights], word_VD: Tensor | None, head: HeadWeights, draft: DraftWeights | None
    ) -> None:
        """`word_VD`: where tokens are looked up, if that is all that their embedding takes."""
        from services.attention_worker import _native

        self.embeds = word_VD is not None
        self._dtype, self._layers = layers[0].post_norm_D[0].dtype, len(layers)
        self._stack = _native.Stack(
            [_layer(weights) for weights in layers],
            word_VD,
            _native.Head(norm=head.norm_D, norm_eps=head.norm_eps, matrix=head.matrix_VD),
            _draft(draft) if draft is not None else None,
        )
        self._routes: tuple[ExchangeLike, Routes] | None = None

    def run(self, at: Reached, step: Step, caches: list[Tensor], dispatcher: DispatcherLike) -> Reached:
        """Runs a step on as far as it goes; returns `at` itself if no layer could be run.

        Without x it begins with the embedding, if it `embeds`. A step that is observed stops after each layer.
        """
        tokens = len(step.ids_T)
        exchange = dispatcher.exchange(tokens, self._dtype) if isinstance(dispatcher, ExchangingDispatcher) else None
        if exchange is None:
            return at
        routes = self._routes_of(exchange)
        with layers_span(at.layer, exchange.seconds_LN):
            outcome = self._stack.run(
                at.layer,
                self._layers if step.observe is None else at.layer + 1,
                at.x_TD,
                step.number,
                step.ids_T,
                step.positions_T,
                step.seq_T,
                step.slot_mapping_T,
                step.page_table_SX,
                step.sample_rows_B,
                caches,
                routes,
            )
        exchange.count_calls(outcome.messages)
        if outcome.kept:
            exchange.keep(outcome.kept)
        reached, x_TD = outcome.reached, outcome.x
        if outcome.interrupted is not None:
            x_TD = exchange.resume(reached - 1, step, outcome.interrupted).finish(x_TD)
        return Reached(reached, x_TD, outcome.logits, outcome.hidden)

    def draft(self, step: Step, hidden_TD: Tensor, cache_PIL: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [B, V] of the token after each of the step's ids that are sample rows, and their rows [B, D]."""
        return self._stack.draft(
            hidden_TD,
            step.ids_T,
            step.positions_T,
            step.seq_T,
            step.slot_mapping_T,
            step.page_table_SX,
            step.sample_rows_B,
            cache_PIL,
        )

    def _routes_of(self, exchange: ExchangeLike) -> Routes:
        if self._routes is None or self._routes[0] is not exchange:
            self._routes = exchange, _routes(exchange)
        return self._routes[1]


def _routes(exchange: ExchangeLike) -> Routes:
    from services.attention_worker import _native

    gate = exchange.gate
    return _native.Routes(
        scatterer=exchange.scatterer,
        generation=exchange.generation,
        epoch=exchange.epoch,
        serial=exchange.serial_W,
        replica_offset=exchange.replica_offset_LF,
        worker=exchange.replica_worker_L,
        gate=_native.Gate(top_k=gate.top_k, num_ffn=gate.num_ffn, scale=gate.scale, norm_topk=gate.norm_topk),
        drops_zero=exchange.drops_zero,
        dtype=exchange.wire_dtype,
        timeout_s=exchange.timeout_s,
        leaves_overdue=exchange.leaves_overdue,
        counts=exchange.count_LN,
        seconds=exchange.seconds_LN,
        shadow=exchange.shadow,
    )


def _layer(weights: LayerWeights) -> Layer:
    from services.attention_worker import _native

    return _native.Layer(
        attention=[_attention(each) for each in weights.attention],
        post_norm=weights.post_norm_D,
        norm_eps=weights.norm_eps,
        mlp=[_native.Mlp(gate_up_2FD, down_DF) for gate_up_2FD, down_DF in weights.mlp],
        classifier=weights.gate.classifier_GD,
        bias=weights.gate.bias_G,
    )


def _draft(weights: DraftWeights) -> Draft:
    from services.attention_worker import _native

    return _native.Draft(
        word=weights.word_VD,
        token_norm=weights.token_norm_D,
        hidden_norm=weights.hidden_norm_D,
        join=weights.join_DK,
        attention=_attention(weights.attention),
        post_norm=weights.post_norm_D,
        mlp=_native.Mlp(*weights.mlp),
        norm=weights.norm_D,
        norm_eps=weights.norm_eps,
    )


def _attention(weights: AttentionWeights) -> Attention:
    from services.attention_worker import _native

    w = weights.mla
    sink_blocks, recent_blocks = weights.blocks
    return _native.Attention(
        norm=w.norm_D,
        q_a=w.q_a_QD,
        q_a_norm=w.q_a_norm_Q,
        q_b=w.q_b_EQ,
        kv_a=w.kv_a_LD,
        kv_a_norm=w.kv_a_norm_C,
        w_uk=w.w_uk_HCN,
        w_uv=w.w_uv_HUC,
        o_proj=w.o_proj_DO,
        cos_sin=w.cos_sin_MR,
        norm_eps=w.norm_eps,
        lora_eps=w.lora_eps,
        q_scale=w.q_scale,
        kv_scale=w.kv_scale,
        scale=weights.scale,
        latent=weights.latent,
        sink_blocks=sink_blocks,
        recent_blocks=recent_blocks,
    )
