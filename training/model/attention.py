"""Multi-head latent attention without a KV cache, for training (docs/longcat-flash.md, Attention).

Legend: T tokens of all groups, D hidden, H heads, C kv_lora_rank, R rope dim, N nope dim, Q = N + R, U value dim,
W = N + U, X = R / 2, B rows, S length of a row.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.model.config import SERVED, Architecture, ModelConfig

Groups = list[tuple[int, int]]  # (rows, length) of each run of equally long rows
Attend = Callable[[Tensor, Tensor, Tensor, Groups], Tensor]
LORA_EPS = 1e-6  # of the two inner norms: the reference uses its class's default there, not rms_norm_eps


class RMSNorm(nn.Module):
    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x_TD: Tensor) -> Tensor:
        if x_TD.dtype == torch.float32:
            return F.rms_norm(x_TD, self.weight.shape, self.weight, self.eps)
        wide_TD = x_TD.float()
        wide_TD = wide_TD * torch.rsqrt(wide_TD.pow(2).mean(-1, keepdim=True) + self.eps)
        return self.weight * wide_TD.to(x_TD.dtype)


def linear(inputs: int, outputs: int) -> nn.Linear:
    return nn.Linear(inputs, outputs, bias=False)


class Attention(nn.Module):
    def __init__(self, config: ModelConfig, architecture: Architecture = SERVED) -> None:
        super().__init__()
        self.config = c = config
        heads, qk = c.num_attention_heads, c.qk_nope_head_dim + c.qk_rope_head_dim
        self.q_a_proj = linear(c.hidden_size, c.q_lora_rank)
        self.q_a_layernorm = RMSNorm(c.q_lora_rank, LORA_EPS)
        self.q_b_proj = linear(c.q_lora_rank, heads * qk)
        self.kv_a_proj_with_mqa = linear(c.hidden_size, c.kv_lora_rank + c.qk_rope_head_dim)
        self.kv_a_layernorm = RMSNorm(c.kv_lora_rank, LORA_EPS)
        self.kv_b_proj = linear(c.kv_lora_rank, heads * (c.qk_nope_head_dim + c.v_head_dim))
        self.o_proj = linear(heads * c.v_head_dim, c.hidden_size)
        aligned = architecture.attention_alignment
        self.q_scale = (c.hidden_size / c.q_lora_rank) ** 0.5 if aligned else 1.0
        self.kv_scale = (c.hidden_size / c.kv_lora_rank) ** 0.5 if aligned else 1.0
        self.attend: Attend = attend

    def forward(self, x_TD: Tensor, rope_TR: Tensor, groups: Groups) -> Tensor:
        """`rope_TR`: half cosines, half sines."""
        y_TD: Tensor = self.o_proj(self.attend(*self.project(x_TD, rope_TR), groups))
        return y_TD

    def project(self, x_TD: Tensor, rope_TR: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns queries and keys, both [T, H, Q], and values [T, H, U]."""
        c, tokens = self.config, len(x_TD)
        q_THQ = (self.q_b_proj(self.q_a_layernorm(self.q_a_proj(x_TD))) * self.q_scale).view(
            tokens, c.num_attention_heads, -1
        )
        latent_TC, k_rope_TR = self.kv_a_proj_with_mqa(x_TD).split([c.kv_lora_rank, c.qk_rope_head_dim], -1)
        kv_THW = self.kv_b_proj(self.kv_a_layernorm(latent_TC) * self.kv_scale).view(tokens, c.num_attention_heads, -1)
        k_nope_THN, v_THU = kv_THW.split([c.qk_nope_head_dim, c.v_head_dim], -1)
        q_nope_THN, q_rope_THR = q_THQ.split([c.qk_nope_head_dim, c.qk_rope_head_dim], -1)
        q_THQ = torch.cat([q_nope_THN, rotate(q_rope_THR, rope_TR)], -1)
        k_rope_T1R = rotate(k_rope_TR[:, None], rope_TR)
        k_THQ = torch.cat([k_nope_THN, k_rope_T1R.expand(-1, c.num_attention_heads, -1)], -1)
        return q_THQ, k_THQ, v_THU


def attend(q_THQ: Tensor, k_THQ: Tensor, v_THU: Tensor, groups: Groups) -> Tensor:
    """Returns what each token reads from itself and the tokens before it in its row, heads side by side."""
    sizes = [rows * length for rows, length in groups]
    parts = zip(*(torch.split(t, sizes) for t in (q_THQ, k_THQ, v_THU)), groups, strict=True)
    return torch.cat([_attend(q, k, v, rows) for q, k, v, (rows, _) in parts])


def _attend(q_THQ: Tensor, k_THQ: Tensor, v_THU: Tensor, rows: int) -> Tensor:
    q_BHSQ, k_BHSQ, v_BHSU = (by_head(t, rows) for t in (q_THQ, k_THQ, v_THU))
    o_BHSU = F.scaled_dot_product_attention(q_BHSQ, k_BHSQ, v_BHSU, is_causal=True)
    return o_BHSU.transpose(1, 2).reshape(len(q_THQ), -1)


def by_head(x_THQ: Tensor, rows: int) -> Tensor:
    """Returns [B, H, S, Q] of the tokens of `rows` equally long rows."""
    return x_THQ.view(rows, -1, *x_THQ.shape[1:]).transpose(1, 2)


def rope_table(config: ModelConfig, length: int) -> Tensor:
    """Returns [length, R] in fp32: R/2 cosines, then R/2 sines."""
    dims = config.qk_rope_head_dim
    frequency = config.rope_theta ** (-torch.arange(0, dims, 2, dtype=torch.float32) / dims)
    angle = torch.arange(length, dtype=torch.float32)[:, None] * frequency
    return torch.cat([angle.cos(), angle.sin()], -1)


def rope_of(config: ModelConfig, groups: Groups, device: torch.device | None = None) -> Tensor:
    """Returns the tokens' lines of the rope table, [T, R]. The table is made on the CPU, so that devices agree."""
    table_SR = rope_table(config, max(length for _, length in groups)).to(device)
    return torch.cat([table_SR[:length].repeat(rows, 1) for rows, length in groups])


def rotate(x_THR: Tensor, rope_TR: Tensor) -> Tensor:
    """Rotates interleaved dims; the even ones come first in the result."""
    cos_T1X, sin_T1X = rope_TR[:, None].to(x_THR.dtype).chunk(2, -1)
    even_THX, odd_THX = x_THR[..., 0::2], x_THR[..., 1::2]
    return torch.cat([even_THX * cos_T1X - odd_THX * sin_T1X, odd_THX * cos_T1X + even_THX * sin_T1X], -1)
