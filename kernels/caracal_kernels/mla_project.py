"""Everything of an MLA before the keys: norm, projections, rope, absorbed query, cache write.

Legend: T rows, D hidden, Q q_lora_rank, C kv_lora_rank, R rope dims, L = C + R, H heads, N nope dims, U value dims,
E = H (N + R) query dims, O = H U value dims of all heads, M positions of the rope table, P pages of I positions.
Source: docs/longcat-flash.md, attention. The latent is cached normed and scaled; the rope part is never scaled.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from caracal_kernels.latent_cache import write_fp8_reference
from caracal_kernels.linear import accumulate_reference, linear_reference
from caracal_kernels.registry import define_op
from caracal_kernels.rms_norm import rms_norm_reference


@dataclass(frozen=True, slots=True, kw_only=True)
class MlaWeights:
    """One MLA sublayer with its input norm; of several ranks, this rank's heads.

    `w_uk_HCN` is kv_b_proj's key half, transposed per head once at load: absorbing is then a product like the others.
    """

    norm_D: Tensor
    q_a_QD: Tensor
    q_a_norm_Q: Tensor
    q_b_EQ: Tensor
    kv_a_LD: Tensor
    kv_a_norm_C: Tensor
    w_uk_HCN: Tensor
    w_uv_HUC: Tensor
    o_proj_DO: Tensor
    cos_sin_MR: Tensor  # fp32: R/2 cosines, then R/2 sines
    norm_eps: float
    lora_eps: float
    q_scale: float
    kv_scale: float


def rope_reference(x_TR: Tensor, cos_sin_TR: Tensor) -> Tensor:
    """Rotates interleaved (even, odd) dims in fp32; the result has all even dims first, then all odd ones."""
    cos, sin = cos_sin_TR.chunk(2, dim=-1)
    even, odd = x_TR[..., ::2].float(), x_TR[..., 1::2].float()
    return torch.cat([even * cos - odd * sin, odd * cos + even * sin], dim=-1).to(x_TR.dtype)


def mla_project_reference(
    x_TD: Tensor,
    positions_T: Tensor,
    slot_mapping_T: Tensor,
    cache_PIL: Tensor,
    norm_D: Tensor,
    q_a_QD: Tensor,
    q_a_norm_Q: Tensor,
    q_b_EQ: Tensor,
    kv_a_LD: Tensor,
    kv_a_norm_C: Tensor,
    w_uk_HCN: Tensor,
    cos_sin_MR: Tensor,
    norm_eps: float,
    lora_eps: float,
    q_scale: float,
    kv_scale: float,
) -> Tensor:
    heads, latent, nope = w_uk_HCN.shape
    dtype = x_TD.dtype
    h_TD = rms_norm_reference(x_TD, norm_D, norm_eps)
    q_TQ = rms_norm_reference(linear_reference(h_TD, q_a_QD), q_a_norm_Q, lora_eps)
    q_THE = (linear_reference(q_TQ, q_b_EQ).float() * q_scale).to(dtype).view(len(x_TD), heads, len(q_b_EQ) // heads)
    ckv_TL = linear_reference(h_TD, kv_a_LD)
    c_TC = (rms_norm_reference(ckv_TL[:, :latent], kv_a_norm_C, lora_eps).float() * kv_scale).to(dtype)
    cos_sin_TR = cos_sin_MR[positions_T.long()]
    latent_TL = torch.cat([c_TC, rope_reference(ckv_TL[:, latent:], cos_sin_TR)], dim=-1)
    written_T = slot_mapping_T >= 0
    places_T = slot_mapping_T[written_T].long()
    if cache_PIL.dtype == torch.uint8:
        write_fp8_reference(cache_PIL, places_T, *latent_TL[written_T].split([latent, latent_TL.shape[1] - latent], 1))
    else:
        cache_PIL.view(-1, cache_PIL.shape[-1])[places_T] = latent_TL[written_T]
    absorbed = [accumulate_reference(q_THE[:, head, :nope], w_uk_HCN[head]) for head in range(heads)]
    q_rope_THR = rope_reference(q_THE[..., nope:], cos_sin_TR[:, None])
    return torch.cat([torch.stack(absorbed, dim=1).to(dtype), q_rope_THR], dim=-1)


def _fake(x_TD: Tensor, positions_T: Tensor, slot_mapping_T: Tensor, cache_PIL: Tensor, *weights: Tensor) -> Tensor:
    kv_a_norm_C, w_uk_HCN, cos_sin_MR = weights[5:8]
    return x_TD.new_empty((x_TD.shape[0], w_uk_HCN.shape[0], len(kv_a_norm_C) + cos_sin_MR.shape[1]))


_mla_project = define_op(mla_project_reference, fake=_fake, triton="mla_project", mutates=("cache_PIL",))


def mla_project(
    x_TD: Tensor, weights: MlaWeights, positions_T: Tensor, slot_mapping_T: Tensor, cache_PIL: Tensor
) -> Tensor:
    """Absorbed queries [T, H, L] = latent C | rope R; writes each row's [latent | rope key] to its place in the cache.

    `slot_mapping_T` is page * I + offset in the page, or -1: written nowhere. A cache of bytes gets the latent in fp8,
    see latent_cache.py.
    """
    w = weights
    return _mla_project(
        x_TD,
        positions_T,
        slot_mapping_T,
        cache_PIL,
        w.norm_D,
        w.q_a_QD,
        w.q_a_norm_Q,
        w.q_b_EQ,
        w.kv_a_LD,
        w.kv_a_norm_C,
        w.w_uk_HCN,
        w.cos_sin_MR,
        w.norm_eps,
        w.lora_eps,
        w.q_scale,
        w.kv_scale,
    )
