"""Floating-point operations of the model's matrix products, two for each multiplication with its addition.

Norms, softmax, activations and the optimizer are not counted. Padding is: it is computed as well.
Legend: D hidden, H heads, Q query and key dim, U value dim.
"""

from __future__ import annotations

from torch import nn

from training.model.attention import Attention, Groups
from training.model.longcat_flash import LongcatFlash


def chosen_experts(model: LongcatFlash) -> int:
    """Returns how many FFN experts the tokens of the last forward pass chose, in all layers together."""
    chosen = 0
    for moe in model.mixtures():
        assert moe.chosen_TK is not None
        chosen += int((moe.chosen_TK < moe.num_experts).sum())
    return chosen


def forward_flops(model: LongcatFlash, groups: Groups, wanted: int, experts: int) -> int:
    """Counts a forward pass in which the tokens chose `experts` FFN experts, in all layers together.

    `wanted`: tokens whose logits were computed. A token attends to itself and those before it, and only that counts.
    """
    config = model.config
    tokens = sum(rows * length for rows, length in groups)
    reads = sum(rows * length * (length + 1) // 2 for rows, length in groups)
    per_token = sum(m.weight.numel() for m in model.layers.modules() if isinstance(m, nn.Linear))
    attentions = sum(isinstance(module, Attention) for module in model.layers.modules())
    per_read = (
        attentions
        * config.num_attention_heads
        * (config.qk_nope_head_dim + config.qk_rope_head_dim + config.v_head_dim)
    )
    expert = 3 * config.hidden_size * config.expert_ffn_hidden_size
    return 2 * (tokens * per_token + reads * per_read + experts * expert + wanted * model.lm_head.weight.numel())


def step_flops(model: LongcatFlash, groups: Groups, wanted: int, experts: int) -> int:
    """Counts a training step: the backward pass has two products for each of the forward pass."""
    return 3 * forward_flops(model, groups, wanted, experts)
