"""Mixture of FFN experts and zero experts, for training: tokens sorted by expert, one matmul per expert.

Legend: T tokens, D hidden, G gates (FFN experts, then zero experts), K slots per token, P (token, FFN expert) pairs,
E FFN experts, F expert width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.config import ModelConfig


class Router(nn.Module):
    """Always fp32. The bias decides who is chosen and never how much a choice weighs."""

    e_score_correction_bias: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.classifier = nn.Linear(config.hidden_size, config.num_gates, bias=False)
        self.register_buffer("e_score_correction_bias", torch.zeros(config.num_gates))
        self.top_k, self.scale = config.moe_topk, config.routed_scaling_factor

    def forward(self, x_TD: Tensor) -> tuple[Tensor, Tensor]:
        """Gate ids and weights, both [T, K]."""
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

    def forward(self, x_PD: Tensor, counts: list[int]) -> Tensor:
        """Rows sorted by expert, `counts` rows for each."""
        ys = []
        for rows_XD, gate_up_2FD, down_DF in zip(
            torch.split(x_PD, counts), self.gate_up_E2FD, self.down_EDF, strict=True
        ):
            gate_XF, up_XF = F.linear(rows_XD, gate_up_2FD).chunk(2, -1)
            ys.append(F.linear(F.silu(gate_XF) * up_XF, down_DF))
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
        order_S = gate_TK.flatten().argsort(stable=True)
        counts = gate_TK.flatten().bincount(minlength=self.num_experts)[: self.num_experts].tolist()
        pair_P = order_S[: sum(counts)]
        token_P = pair_P // gate_TK.shape[1]
        y_PD = self.experts(x_TD[token_P], counts).float() * weight_TK.flatten()[pair_P][:, None]
        out_TD: Tensor = (zero_T1 * x_TD.float()).index_add(0, token_P, y_PD)
        return out_TD.to(x_TD.dtype)
