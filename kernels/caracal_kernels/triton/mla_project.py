"""What an MLA does before the keys. Legend: T rows, D hidden, Q q_lora_rank, C latent, R rope, L = C + R, H heads,
N nope, E = N + R, M positions of the rope table, P pages of I positions.

The projections are linears; then one launch norms and rotates keys into the cache and rotates queries, and one absorbs.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from caracal_kernels.rms_norm import rms_norm
from caracal_kernels.triton.latent_cache import parts_of
from caracal_kernels.triton.linear import linear_triton
from caracal_kernels.triton.per_head import per_head
from caracal_kernels.triton.rope import rotate
from caracal_kernels.triton.rounding import round_to
from caracal_kernels.triton.tiles import FP8_BLOCK


@triton.jit
def write_row(
    kv_ptr, norm_ptr, q_ptr, cos_sin_ptr, position_ptr, mapping_ptr, latent_ptr, scale_ptr, rope_ptr, out_ptr,
    q_scale, kv_scale, eps, num_positions, num_places, H, N,
    C: tl.constexpr, R: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_H: tl.constexpr,
    FP8: tl.constexpr, FP8_BLOCK: tl.constexpr,
    LATENT_STRIDE: tl.constexpr, SCALE_STRIDE: tl.constexpr, ROPE_STRIDE: tl.constexpr,
):  # fmt: skip
    dtype: tl.constexpr = rope_ptr.dtype.element_ty
    row = tl.program_id(0).to(tl.int64)
    place = tl.load(mapping_ptr + row).to(tl.int64)
    writes = (place >= 0) & (place < num_places)
    c_C = tl.arange(0, BLOCK_C)
    kv_C = tl.load(kv_ptr + row * (C + R) + c_C, c_C < C, 0.0).to(tl.float32)
    kv_C = round_to(kv_C * tl.rsqrt(tl.sum(kv_C * kv_C, 0) / C + eps), dtype).to(tl.float32)
    kv_C = round_to(kv_C * tl.load(norm_ptr + c_C, c_C < C, 0.0).to(tl.float32), dtype).to(tl.float32)
    latent_C = round_to(kv_C * kv_scale, dtype)
    if FP8:
        s_S = tl.arange(0, BLOCK_C // FP8_BLOCK)
        latent_SB = tl.reshape(latent_C.to(tl.float32), [BLOCK_C // FP8_BLOCK, FP8_BLOCK])
        top_S = tl.maximum(tl.max(tl.abs(latent_SB), 1), 1e-10)
        # NaN where a value is not finite: a maximum may leave NaN out
        scale_S = tl.div_rn(top_S, tl.full(top_S.shape, 448.0, tl.float32)) + tl.sum(latent_SB * 0.0, 1)
        code_SB = tl.div_rn(latent_SB, tl.broadcast_to(scale_S[:, None], latent_SB.shape))
        code_C = tl.reshape(tl.clamp(code_SB, -448.0, 448.0), [BLOCK_C])
        tl.store(scale_ptr + place * SCALE_STRIDE + s_S, scale_S, writes & (s_S * FP8_BLOCK < C))
        tl.store(
            latent_ptr + place * LATENT_STRIDE + c_C, round_to(code_C, latent_ptr.dtype.element_ty), writes & (c_C < C)
        )
    else:
        tl.store(latent_ptr + place * LATENT_STRIDE + c_C, latent_C, writes & (c_C < C))

    r_R = tl.arange(0, BLOCK_R)
    is_dim = r_R < R // 2
    position = tl.load(position_ptr + row).to(tl.int64)
    turns = is_dim & (position >= 0) & (position < num_positions)
    cos = tl.load(cos_sin_ptr + position * R + r_R, turns, 0.0)
    sin = tl.load(cos_sin_ptr + position * R + R // 2 + r_R, turns, 0.0)
    k_at = kv_ptr + row * (C + R) + C + 2 * r_R
    first_R, second_R = rotate(tl.load(k_at, is_dim, 0.0), tl.load(k_at + 1, is_dim, 0.0), cos, sin, dtype)
    tl.store(rope_ptr + place * ROPE_STRIDE + r_R, first_R, writes & is_dim)
    tl.store(rope_ptr + place * ROPE_STRIDE + R // 2 + r_R, second_R, writes & is_dim)

    for begin in range(0, H, BLOCK_H):
        head_H = begin + tl.arange(0, BLOCK_H)
        both = (head_H < H)[:, None] & is_dim[None, :]
        q_at = q_ptr + (row * H + head_H)[:, None] * (N + R) + N + 2 * r_R[None, :]
        even_HR = round_to(tl.load(q_at, both, 0.0).to(tl.float32) * q_scale, dtype)
        odd_HR = round_to(tl.load(q_at + 1, both, 0.0).to(tl.float32) * q_scale, dtype)
        first_HR, second_HR = rotate(even_HR, odd_HR, cos[None, :], sin[None, :], dtype)
        out_at = out_ptr + (row * H + head_H)[:, None] * (C + R) + C + r_R[None, :]
        tl.store(out_at, first_HR, both)
        tl.store(out_at + R // 2, second_HR, both)


def mla_project_triton(
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
    """As mla_project. Positions and the mapping are not checked: what points outside is not read or written."""
    (heads, latent, nope), rows = w_uk_HCN.shape, len(x_TD)
    rope = len(kv_a_LD) - latent
    h_TD = rms_norm(x_TD, norm_D, norm_eps)
    q_TQ = rms_norm(linear_triton(h_TD, q_a_QD), q_a_norm_Q, lora_eps)
    q_THE = linear_triton(q_TQ, q_b_EQ).view(rows, heads, nope + rope)
    kv_TL = linear_triton(h_TD, kv_a_LD)
    q_THL = x_TD.new_empty((rows, heads, latent + rope))
    if rows:
        cache = parts_of(cache_PIL, latent, rope, x_TD.dtype)
        block_c = triton.next_power_of_2(latent)
        write_row[(rows,)](
            kv_TL, kv_a_norm_C, q_THE, cos_sin_MR, positions_T, slot_mapping_T, *cache.tensors, q_THL,
            q_scale, kv_scale, lora_eps, len(cos_sin_MR), cache_PIL.shape[0] * cache_PIL.shape[1],
            heads, nope, C=latent, R=rope, BLOCK_C=max(FP8_BLOCK, block_c) if cache.fp8 else block_c,
            BLOCK_R=triton.next_power_of_2(rope // 2), BLOCK_H=16, **cache.constants, num_warps=4,
        )  # fmt: skip
    per_head(q_THE[..., :nope], w_uk_HCN, q_THL[..., :latent], q_scale)
    return q_THL
