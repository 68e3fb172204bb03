"""A dispatcher that runs the experts in the caller's own thread, one token at a time: the reference for MoEDispatcher.

Legend: T tokens, K choices of a token, G gate outputs, D hidden, F inner width, A (row, expert) assignments.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from caracal_kernels import GateWeights, combine, route, swiglu
from torch import Tensor

from services.attention_worker.model.step import Step
from services.checkpoint.reader import Checkpoint, ExpertWeights, load_expert


@dataclass(frozen=True)
class ReferenceHandle:
    """A MoE output that is already computed."""

    y_AD: Tensor
    reply_index_TK: Tensor
    weights_TK: Tensor
    zero_T: Tensor
    h_TD: Tensor

    def finish(self, residual_TD: Tensor) -> Tensor:
        return combine(self.y_AD, self.reply_index_TK, self.weights_TK, self.zero_T, self.h_TD, residual_TD)


class ReferenceDispatcher:
    """Every expert of a checkpoint, run on one row at a time."""

    def __init__(self, checkpoint: Checkpoint, dtype: torch.dtype) -> None:
        self.checkpoint = checkpoint
        self._config = checkpoint.config
        self._experts: list[list[ExpertWeights]] = [
            [load_expert(checkpoint, layer, expert, dtype) for expert in range(self._config.n_routed_experts)]
            for layer in range(self._config.num_layers)
        ]

    def expert_input(self, h_TD: Tensor) -> Tensor:
        """Returns the rows [T, D] as experts receive them."""
        return h_TD

    def start(self, layer: int, h_TD: Tensor, gate: GateWeights, step: Step) -> ReferenceHandle:
        config = self._config
        ids_TK, weights_TK, zero_T = route(
            h_TD,
            gate.classifier_GD,
            gate.bias_G,
            config.moe_topk,
            config.n_routed_experts,
            config.routed_scaling_factor,
            config.norm_topk_prob,
        )
        x_TD = self.expert_input(h_TD)
        replies: list[Tensor] = []
        reply_index_TK = torch.full_like(ids_TK, -1)
        for token, ids in enumerate(ids_TK.tolist()):
            for choice, expert in enumerate(ids):
                if expert < config.n_routed_experts:
                    weights = self._experts[layer][expert]
                    reply_index_TK[token, choice] = len(replies)
                    replies.append(swiglu(x_TD[token : token + 1], weights.gate_up_2FD, weights.down_DF))
        zero_T = zero_T if config.zero_expert_type == "identity" else torch.zeros_like(zero_T)
        y_AD = torch.cat(replies) if replies else h_TD.new_empty(0, h_TD.shape[1])
        return ReferenceHandle(y_AD, reply_index_TK, weights_TK, zero_T, h_TD)
