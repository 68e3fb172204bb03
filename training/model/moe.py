"""Mixture of FFN experts and zero experts, for training: tokens sorted by expert, one matmul per expert.

Legend: T tokens, D hidden, G gates (FFN experts, then zero experts), K choices per token, C = T x K choices, E FFN
experts, A (token, FFN expert) assignments, N assignments of one expert, F expert width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.model.config import ModelConfig


class Router(nn.Module):
    """The router, always fp32. The bias affects which gates are chosen, not their weights."""

    e_score_correction_bias: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.classifier = nn.Linear(config.hidden_size, config.num_gates, bias=False)
        self.register_buffer("e_score_correction_bias", torch.zeros(config.num_gates))
        self.top_k, self.scale = config.moe_topk, config.routed_scaling_factor

    def forward(self, x_TD: Tensor) -> tuple[Tensor, Tensor]:
        """Returns gate ids and weights, both [T, K]."""
        with torch.autocast(x_TD.device.type, enabled=False):
            score_TG = F.linear(x_TD.float(), self.classifier.weight).softmax(-1)
        with torch.no_grad():
            gate_TK = (score_TG + self.e_score_correction_bias).topk(self.top_k, -1, sorted=False).indices
        return gate_TK, score_TG.gather(-1, gate_TK) * self.scale


class Experts(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        experts, width = config.n_routed_experts, config.expert_ffn_hidden_size
        self.gate_up_E2FD = nn.Parameter(torch.empty(experts, 2 * width, config.hidden_size))
        self.down_EDF = nn.Parameter(torch.empty(experts, config.hidden_size, width))

    def forward(self, x_AD: Tensor, counts: list[int]) -> Tensor:
        """Takes rows sorted by expert, `counts` for each; returns [A, D]."""
        ys = []
        for rows_ND, gate_up_2FD, down_DF in zip(
            torch.split(x_AD, counts), self.gate_up_E2FD, self.down_EDF, strict=True
        ):
            gate_NF, up_NF = F.linear(rows_ND, gate_up_2FD).chunk(2, -1)
            ys.append(F.linear(F.silu(gate_NF) * up_NF, down_DF))
        return torch.cat(ys)


class MoE(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.router, self.experts = Router(config), Experts(config)
        self.num_experts = config.n_routed_experts
        self.chosen_TK: Tensor | None = None  # of the last forward, for the bias controller and for statistics

    def forward(self, x_TD: Tensor) -> Tensor:
        gate_TK, weight_TK = self.router(x_TD)
        self.chosen_TK = gate_TK
        zero_T1 = (weight_TK * (gate_TK >= self.num_experts)).sum(-1, keepdim=True)
        order_C = gate_TK.flatten().argsort(stable=True)
        counts = gate_TK.flatten().bincount(minlength=self.num_experts)[: self.num_experts].tolist()
        choice_A = order_C[: sum(counts)]
        token_A = choice_A // gate_TK.shape[1]
        y_AD = self.experts(x_TD[token_A], counts).float() * weight_TK.flatten()[choice_A][:, None]
        out_TD: Tensor = (zero_T1 * x_TD.float()).index_add(0, token_A, y_AD)
        return out_TD.to(x_TD.dtype)
