"""Variances of activations at initialisation, with and without the alignments of the report's Eq. 7 and 8.

Legend: T tokens, D hidden, H heads, Q query and key dim.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from training.model.attention import Attention, rope_of
from training.model.config import Architecture, ModelConfig
from training.model.moe import MoE

# The proportions of LongCat-Flash-Chat: hidden : q_lora_rank : kv_lora_rank = 6144 : 1536 : 512.
WIDE = ModelConfig(hidden_size=768, q_lora_rank=192, kv_lora_rank=64, num_attention_heads=8)
TOKENS = 512
FINER = (1, 2, 4)  # m of Eq. 8


def _draw(module: torch.nn.Module, hidden: int, one_variance: bool, rng: torch.Generator) -> None:
    for weight in module.parameters():
        if weight.ndim > 1:
            std = (hidden if one_variance else weight.shape[-1]) ** -0.5
            torch.nn.init.normal_(weight, 0.0, std, generator=rng)


@torch.no_grad()
def attention_variances(one_variance: bool, aligned: bool, seed: int) -> dict[str, float]:
    """Returns the variances of the parts of queries and keys, for tokens of variance 1 as a norm leaves them."""
    rng = torch.Generator().manual_seed(seed)
    attention = Attention(WIDE, Architecture(attention_alignment=aligned))
    _draw(attention, WIDE.hidden_size, one_variance, rng)
    x_TD = torch.randn(TOKENS, WIDE.hidden_size, generator=rng)
    q_THQ, k_THQ, _ = attention.project(x_TD, rope_of(WIDE, [(1, TOKENS)]))
    nope = WIDE.qk_nope_head_dim
    parts = {"q^C": q_THQ[..., :nope], "q^R": q_THQ[..., nope:], "k^C": k_THQ[..., :nope], "k^R": k_THQ[..., nope:]}
    return {name: float(part.var()) for name, part in parts.items()}


@torch.no_grad()
def expert_variance(finer: int, aligned: bool, seed: int) -> float:
    """Returns the variance of a MoE's output with each of 16 experts cut into `finer`, and as many more chosen."""
    rng = torch.Generator().manual_seed(seed)
    config = replace(
        WIDE,
        hidden_size=256,
        n_routed_experts=16 * finer,
        zero_expert_num=0,
        moe_topk=4 * finer,
        expert_ffn_hidden_size=256 // finer,
        routed_scaling_factor=float(finer),
    )
    moe = MoE(config, Architecture(expert_alignment=aligned))
    _draw(moe, config.hidden_size, True, rng)
    return float(moe(torch.randn(TOKENS, config.hidden_size, generator=rng)).var())


def variances(seed: int = 1) -> dict[str, dict[str, dict[str, float]]]:
    """Returns all: by initialisation and alignment those of attention; by alignment those of the MoE over its m = 1."""
    attention = {
        f"{'one variance' if one else '1 / inputs'}, {'with' if aligned else 'without'} α": attention_variances(
            one, aligned, seed
        )
        for one in (True, False)
        for aligned in (True, False)
    }
    experts = {}
    for aligned in (True, False):
        found = {finer: expert_variance(finer, aligned, seed) for finer in FINER}
        experts[f"{'with' if aligned else 'without'} γ"] = {f"m = {m}": found[m] / found[1] for m in FINER}
    return {"attention": attention, "experts": experts}
