"""The table of the rotary embedding's angles. Legend: M positions, R rope dims.

Source: docs/longcat-flash.md, rope; the order of operations is that of transformers, in fp32.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from services.checkpoint.config import ModelConfig
from services.checkpoint.rope import Yarn


def rope_table(config: ModelConfig) -> Tensor:
    """[max positions, R] fp32: R/2 cosines, then R/2 sines."""
    dims, yarn = config.qk_rope_head_dim, config.rope.yarn
    half = torch.arange(0, dims, 2, dtype=torch.float32) / dims
    period_R = config.rope.theta**half
    frequency_R = 1.0 / period_R if yarn is None else _yarn_frequencies(period_R, config.rope.theta, dims, yarn)
    angle_MR = torch.outer(torch.arange(config.max_position_embeddings).float(), frequency_R)
    table_MR = torch.cat([angle_MR.cos(), angle_MR.sin()], dim=-1)
    return table_MR if yarn is None else table_MR * yarn.table_scale


def _yarn_frequencies(period_R: Tensor, theta: float, dims: int, yarn: Yarn) -> Tensor:
    """Fast dims keep their frequency, slow ones have it divided by the factor, those between are mixed."""

    def dim_that_turns(times: float) -> float:
        original = yarn.original_max_position_embeddings
        return dims * math.log(original / (times * 2 * math.pi)) / (2 * math.log(theta))

    low, high = dim_that_turns(yarn.beta_fast), dim_that_turns(yarn.beta_slow)
    if yarn.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dims - 1)
    width = high - low or 0.001
    keep_R = 1 - ((torch.arange(len(period_R), dtype=torch.float32) - low) / width).clamp(0, 1)
    return 1.0 / (yarn.factor * period_R) * (1 - keep_R) + 1.0 / period_R * keep_R
