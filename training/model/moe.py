"""Mixture of FFN experts and zero experts, for training: tokens sorted by expert, one matmul per expert.

Legend: T tokens, D hidden, G gates (FFN experts, then zero experts), K choices per token, C = T x K choices, E FFN
experts, A (token, FFN expert) assignments, N assignments of one expert, F expert width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.model.config import SERVED, Architecture, ModelConfig


def expert_groups(experts: int) -> int:
    """Returns the number of groups whose outputs are added in a tree: the most ranks that may share the experts."""
    return min(8, experts & -experts)


class Router(nn.Module):
    """The router, always fp32. The bias affects which gates are chosen, not their weights."""

    e_score_correction_bias: Tensor

    def __init__(self, config: ModelConfig, architecture: Architecture) -> None:
        super().__init__()
        self.classifier = nn.Linear(config.hidden_size, config.num_gates, bias=False)
        self.register_buffer("e_score_correction_bias", torch.zeros(config.num_gates))
        self.top_k = config.moe_topk
        self.scale = config.routed_scaling_factor if architecture.expert_alignment else 1.0

    def forward(self, x_TD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns gate ids and weights, both [T, K], and all scores [T, G]."""
        with torch.autocast(x_TD.device.type, enabled=False):
            score_TG = F.linear(x_TD.float(), self.classifier.weight).softmax(-1)
        with torch.no_grad():
            gate_TK = (score_TG + self.e_score_correction_bias).topk(self.top_k, -1, sorted=False).indices
        return gate_TK, score_TG.gather(-1, gate_TK) * self.scale, score_TG


class Experts(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        experts, width = config.n_routed_experts, config.expert_ffn_hidden_size
        self.gate_up_E2FD = nn.Parameter(torch.empty(experts, 2 * width, config.hidden_size))
        self.down_EDF = nn.Parameter(torch.empty(experts, config.hidden_size, width))
        self.in_group = experts // expert_groups(experts)

    def forward(self, x_AD: Tensor, counts: list[int]) -> Tensor:
        """Takes rows sorted by expert, `counts` for each; returns [A, D]."""
        ys = []
        for rows_ND, gate_up_2FD, down_DF in zip(
            torch.split(x_AD, counts), self.gate_up_E2FD, self.down_EDF, strict=True
        ):
            gate_NF, up_NF = F.linear(rows_ND, gate_up_2FD).chunk(2, -1)
            ys.append(F.linear(F.silu(gate_NF) * up_NF, down_DF))
        return torch.cat(ys)


class Pending(Protocol):
    """Outputs of the experts on their way. What is computed before `finish` overlaps with it."""

    def compute(self) -> None:
        """Computes the experts of this process; the last that needs more than the tokens of its own."""

    def finish(self) -> Tensor:
        """Returns the sum of each token's FFN experts, [T, D] in fp32; may wait."""


class Exchange(Protocol):
    """Experts that also other processes have (training/distributed)."""

    def start(self, x_TD: Tensor, gate_TK: Tensor, weight_TK: Tensor) -> Pending: ...


class Local:
    """All experts of a layer, in this process."""

    def __init__(self, experts: Experts) -> None:
        self._experts = experts

    def start(self, x_TD: Tensor, gate_TK: Tensor, weight_TK: Tensor) -> Pending:
        self._tokens = x_TD, gate_TK, weight_TK
        return self

    def compute(self) -> None:
        x_TD, gate_TK, weight_TK = self._tokens
        experts = len(self._experts.down_EDF)
        order_C = gate_TK.flatten().argsort(stable=True)
        counts = gate_TK.flatten().bincount(minlength=experts)[:experts].tolist()
        choice_A = order_C[: sum(counts)]
        token_A = choice_A // gate_TK.shape[1]
        y_AD = self._experts(x_TD[token_A], counts).float() * weight_TK.flatten()[choice_A][:, None]
        self._out_TD = torch.zeros_like(x_TD, dtype=torch.float32).index_add(0, token_A, y_AD)

    def finish(self) -> Tensor:
        return self._out_TD


class Shortcut:
    """A layer's MoE output on its way, with what needs no expert."""

    def __init__(self, kept_TD: Tensor, experts: Pending, dtype: torch.dtype) -> None:
        self._kept_TD, self._experts, self._dtype = kept_TD, experts, dtype
        self.compute = experts.compute

    def finish(self) -> Tensor:
        return (self._kept_TD + self._experts.finish()).to(self._dtype)


class MoE(nn.Module):
    def __init__(self, config: ModelConfig, architecture: Architecture = SERVED) -> None:
        super().__init__()
        self.router, self.experts = Router(config, architecture), Experts(config)
        self.num_experts = config.n_routed_experts
        self.chosen_TK: Tensor | None = None  # of the last forward, for the bias controller and for statistics
        # Called with scores [T, G] and gate ids [T, K] of each forward that will have a backward.
        self.observer: Callable[[Tensor, Tensor], None] | None = None

        self.exchange: Exchange | None = None  # where other processes have experts of this layer, too

    def forward(self, x_TD: Tensor) -> Tensor:
        moe = self.start(x_TD)
        moe.compute()
        return moe.finish()

    def start(self, x_TD: Tensor) -> Shortcut:
        gate_TK, weight_TK, score_TG = self.router(x_TD)
        self.chosen_TK = gate_TK
        if self.observer is not None and score_TG.requires_grad:
            self.observer(score_TG, gate_TK)
        zero_T1 = (weight_TK * (gate_TK >= self.num_experts)).sum(-1, keepdim=True)
        exchange = self.exchange or Local(self.experts)
        return Shortcut(zero_T1 * x_TD.float(), exchange.start(x_TD, gate_TK, weight_TK), x_TD.dtype)
