"""Everything of an MLA before the keys: norm, projections, rope, absorbed query, cache write.

Legend: T rows, D hidden, Q q_lora_rank, C kv_lora_rank, R rope dims, L = C + R, H heads, N nope dims.
Source: longcat-flash.md 1.2. The latent is cached normed and scaled; the rope part is never scaled.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from caracal_kernels.backend import compiled, on_triton
from caracal_kernels.linear import accumulate_reference, linear_reference
from caracal_kernels.rms_norm import rms_norm_reference


def rope_reference(x_TR: Tensor, cos_sin_TR: Tensor) -> Tensor:
    """Interleaved pairs in, de-interleaved out, computed in fp32."""
    cos, sin = cos_sin_TR.chunk(2, dim=-1)
    even, odd = x_TR[..., ::2].float(), x_TR[..., 1::2].float()
    return torch.cat([even * cos - odd * sin, odd * cos + even * sin], dim=-1).to(x_TR.dtype)


def mla_project_reference(
    x_TD: Tensor,
    norm_w_D: Tensor,
    eps: float,
    q_a_QD: Tensor,
    q_a_norm_Q: Tensor,
    q_b_EQ: Tensor,
    kv_a_LD: Tensor,
    kv_a_norm_C: Tensor,
    w_uk_HCN: Tensor,
    cos_sin_PR: Tensor,
    positions_T: Tensor,
    slot_mapping_T: Tensor,
    cache_PBL: Tensor,
    q_scale: float,
    kv_scale: float,
    lora_eps: float = 1e-6,
) -> Tensor:
    heads, latent, nope = w_uk_HCN.shape
    dtype = x_TD.dtype
    h_TD = rms_norm_reference(x_TD, norm_w_D, eps)
    q_TQ = rms_norm_reference(linear_reference(h_TD, q_a_QD), q_a_norm_Q, lora_eps)
    q_THE = (linear_reference(q_TQ, q_b_EQ).float() * q_scale).to(dtype).view(len(x_TD), heads, len(q_b_EQ) // heads)
    ckv_TL = linear_reference(h_TD, kv_a_LD)
    c_TC = (rms_norm_reference(ckv_TL[:, :latent], kv_a_norm_C, lora_eps).float() * kv_scale).to(dtype)
    cos_sin_TR = cos_sin_PR[positions_T.long()]
    k_TR = rope_reference(ckv_TL[:, latent:], cos_sin_TR)
    written_T = slot_mapping_T >= 0
    cache_PBL.view(-1, cache_PBL.shape[-1])[slot_mapping_T[written_T].long()] = torch.cat([c_TC, k_TR], dim=-1)[
        written_T
    ]
    absorbed = [accumulate_reference(q_THE[:, head, :nope], w_uk_HCN[head]) for head in range(heads)]
    q_rope_THR = rope_reference(q_THE[..., nope:], cos_sin_TR[:, None])
    return torch.cat([torch.stack(absorbed, dim=1).to(dtype), q_rope_THR], dim=-1)


def _body(x_TD: Tensor) -> Callable[..., Tensor]:
    if on_triton(x_TD):
        from caracal_kernels.triton.mla_project import mla_project_triton

        return mla_project_triton
    return torch.ops.caracal.mla_project if compiled(x_TD) else mla_project_reference


def mla_project(
    x_TD: Tensor,
    norm_w_D: Tensor,
    eps: float,
    q_a_QD: Tensor,
    q_a_norm_Q: Tensor,
    q_b_EQ: Tensor,
    kv_a_LD: Tensor,
    kv_a_norm_C: Tensor,
    w_uk_HCN: Tensor,
    cos_sin_PR: Tensor,
    positions_T: Tensor,
    slot_mapping_T: Tensor,
    cache_PBL: Tensor,
    q_scale: float,
    kv_scale: float,
    lora_eps: float = 1e-6,
) -> Tensor:
    """Absorbed queries [T, H, L] = latent C | rope R; writes each row's [c | k_rope] to its slot.

    A slot is page * size + place, or -1 for nowhere.
    `w_uk_HCN` is kv_b_proj's key half, transposed per head once at load: absorbing is then a product like the others.
    """
    body = _body(x_TD)
    q_THL: Tensor = body(
        x_TD,
        norm_w_D,
        eps,
        q_a_QD,
        q_a_norm_Q,
        q_b_EQ,
        kv_a_LD,
        kv_a_norm_C,
        w_uk_HCN,
        cos_sin_PR,
        positions_T,
        slot_mapping_T,
        cache_PBL,
        q_scale,
        kv_scale,
        lora_eps,
    )
    return q_THL
