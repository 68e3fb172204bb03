"""A fingerprint of this machine's arithmetic: fixed inputs through every op."""

from __future__ import annotations

import hashlib
from functools import cache

import torch
from torch import Tensor

from caracal_kernels.combine import combine
from caracal_kernels.grouped_swiglu import grouped_swiglu
from caracal_kernels.latent_cache import row_width
from caracal_kernels.linear import linear
from caracal_kernels.mla_attention import mla_attention
from caracal_kernels.mla_output import mla_output
from caracal_kernels.mla_project import MlaWeights, mla_project
from caracal_kernels.rms_norm import rms_norm
from caracal_kernels.route import route
from caracal_kernels.sample import sample
from caracal_kernels.swiglu import swiglu

_CPU = torch.device("cpu")


def golden(shape: tuple[int, ...], salt: int, scale: float = 1.0) -> Tensor:
    """fp32 values in (-scale, scale) from integer arithmetic alone: the same on every machine and torch."""
    count = torch.Size(shape).numel()
    bits = (torch.arange(count, dtype=torch.int64) * 2654435761 + salt * 40503) & 0xFFFF
    return ((bits.float() / 32768.0) - 1.0).view(shape) * scale


def _long_attention(q_THL: Tensor, cache_PIL: Tensor, latent: int) -> Tensor:
    """Over more keys than the segments or splits have in which an attention adds them up."""
    pages, page_size = cache_PIL.shape[:2]
    table_SX = torch.arange(pages, dtype=torch.int32, device=q_THL.device)[None]
    last_T = torch.tensor([pages * page_size - 10], dtype=torch.int32, device=q_THL.device)
    return mla_attention(q_THL, cache_PIL, table_SX, torch.zeros_like(last_T), last_T, 0.25, latent)


def _over_fp8(x_TD: Tensor, mla: MlaWeights, q_THL: Tensor, i32: Tensor) -> tuple[Tensor, Tensor]:
    """A cache in fp8, and what an attention over it gives."""
    latent, rope = len(mla.kv_a_norm_C), mla.cos_sin_MR.shape[1]
    width = row_width(latent, rope, x_TD.dtype, fp8=True)
    cache_PIB = torch.zeros((1, 16, width), dtype=torch.uint8, device=x_TD.device)
    mla_project(x_TD, mla, i32, i32, cache_PIB)
    zero = torch.zeros_like(i32)
    return cache_PIB, mla_attention(q_THL, cache_PIB, zero[:1, None], zero, i32, 0.25, latent)


def _outputs(dtype: torch.dtype, device: torch.device) -> list[Tensor]:
    def fp32(*shape: int, salt: int, scale: float = 1.0) -> Tensor:
        return golden(shape, salt, scale).to(device)

    def weights(*shape: int, salt: int) -> Tensor:
        return fp32(*shape, salt=salt, scale=0.2).to(dtype)

    rows, hidden, heads, nope, latent, rope, inner, gates = 3, 72, 3, 12, 24, 8, 37, 9
    x_TD = fp32(rows, hidden, salt=1).to(dtype)
    i32 = torch.arange(rows, dtype=torch.int32, device=device)
    cache_PIL = torch.zeros((1, 16, latent + rope), dtype=dtype, device=device)
    mla = MlaWeights(
        norm_D=weights(hidden, salt=3),
        q_a_QD=weights(20, hidden, salt=4),
        q_a_norm_Q=weights(20, salt=5),
        q_b_EQ=weights(heads * (nope + rope), 20, salt=6),
        kv_a_LD=weights(latent + rope, hidden, salt=7),
        kv_a_norm_C=weights(latent, salt=8),
        w_uk_HCN=weights(heads, latent, nope, salt=9),
        w_uv_HUC=weights(heads, 10, latent, salt=10),
        o_proj_DO=weights(hidden, heads * 10, salt=11),
        cos_sin_MR=fp32(rows, rope, salt=2),
        norm_eps=1e-5,
        lora_eps=1e-6,
        q_scale=1.5,
        kv_scale=2.5,
    )
    q_THL = mla_project(x_TD, mla, i32, i32, cache_PIL)
    table = torch.zeros((1, 1), dtype=torch.int32, device=device)
    o_THC = mla_attention(q_THL, cache_PIL, table, torch.zeros_like(i32), i32, 0.25, latent)
    long_THC = _long_attention(q_THL[:1], weights(75, 16, latent + rope, salt=17), latent)
    out_TD = mla_output(o_THC, mla.w_uv_HUC, mla.o_proj_DO, x_TD)
    gate_up, down = weights(2 * inner, hidden, salt=12), weights(hidden, inner, salt=13)
    mlp_TD = swiglu(rms_norm(out_TD, weights(hidden, salt=3), 1e-5), gate_up, down, out_TD)
    ids_TK, weights_TK, zero_T = route(mlp_TD, fp32(gates, hidden, salt=14), fp32(gates, salt=15, scale=0.1), 4, 6, 2.0)
    y_AD = grouped_swiglu(mlp_TD, i32, i32[1:], [gate_up] * 2, [down] * 2)
    reply_index_TK = torch.where(ids_TK < 6, i32[:, None], -1).int().contiguous()
    sum_TD = combine(y_AD, reply_index_TK, weights_TK, zero_T, mlp_TD, out_TD)
    logits_BV = linear(sum_TD, weights(50, hidden, salt=16), out_dtype=torch.float32)
    ones = torch.ones(rows, device=device)
    drawn_B = sample(logits_BV, i32.long(), i32.long(), ones, i32, ones * 0.9, ones * 0.01)
    return [
        cache_PIL,
        q_THL,
        o_THC,
        long_THC,
        *_over_fp8(x_TD, mla, q_THL, i32),
        out_TD,
        mlp_TD,
        ids_TK,
        weights_TK,
        zero_T,
        y_AD,
        sum_TD,
        logits_BV,
        drawn_B,
    ]


@cache
def probe(dtype: torch.dtype, device: torch.device = _CPU) -> str:
    """Hex SHA-256 over every op's output on golden inputs in `dtype`, computed on `device`."""
    digest = hashlib.sha256()
    for tensor in _outputs(dtype, device):
        digest.update(tensor.cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
