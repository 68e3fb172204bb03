"""Rows of the latent cache: as they are computed, or with the latent in fp8.

In fp8 a row is bytes: C codes (e4m3), fp32 scales of 128 codes each, then the rope key as it is. What an attention
reads of a code is round(code * scale), in the queries' dtype: attention over such a cache has the bits of one over the
values that it stands for.
Legend: C kv_lora_rank, R rope dims, L = C + R, P pages of I positions, B bytes of a row, T rows.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from caracal_kernels.quantize import BLOCK, quantize_reference


class Fp8Layout(NamedTuple):
    """Where the parts of a row begin, and where it ends, in bytes."""

    scales: int
    rope: int
    end: int


def fp8_layout(latent: int, rope: int, dtype: torch.dtype) -> Fp8Layout:
    """The layout of a row whose rope key and queries are in `dtype`."""
    scales = -(-latent // 4) * 4
    rope_at = scales + 4 * -(-latent // BLOCK)
    return Fp8Layout(scales, rope_at, -(-(rope_at + rope * dtype.itemsize) // 4) * 4)


def row_width(latent: int, rope: int, dtype: torch.dtype, *, fp8: bool) -> int:
    """How many elements a row has in a cache tensor: bytes in fp8, else values."""
    return fp8_layout(latent, rope, dtype).end if fp8 else latent + rope


class CacheParts(NamedTuple):
    """Views of a cache in fp8 that share its memory."""

    codes_PIC: Tensor
    scales_PIS: Tensor
    rope_PIR: Tensor


def fp8_parts(cache_PIB: Tensor, latent: int, rope: int, dtype: torch.dtype) -> CacheParts:
    """The parts of a cache [pages, positions, bytes]."""
    layout = fp8_layout(latent, rope, dtype)
    if cache_PIB.dtype != torch.uint8 or cache_PIB.shape[-1] != layout.end:
        raise ValueError(f"cache: rows of {cache_PIB.shape[-1]} {cache_PIB.dtype}, expected {layout.end} bytes")
    return CacheParts(
        cache_PIB[..., :latent].view(torch.float8_e4m3fn),
        cache_PIB[..., layout.scales : layout.rope].view(torch.float32),
        cache_PIB[..., layout.rope : layout.rope + rope * dtype.itemsize].view(dtype),
    )


def write_fp8_reference(cache_PIB: Tensor, places_T: Tensor, latent_TC: Tensor, rope_TR: Tensor) -> None:
    """Writes rows to their places, page * I + offset. A latent that is not finite reads as NaN."""
    dtype, rows = latent_TC.dtype, cache_PIB.view(-1, 1, cache_PIB.shape[-1])
    parts = fp8_parts(rows, latent_TC.shape[1], rope_TR.shape[1], dtype)
    codes_TC, scales_TS = quantize_reference(latent_TC)
    parts.codes_PIC.view(torch.uint8)[places_T, 0] = codes_TC.view(torch.uint8)
    parts.scales_PIS[places_T, 0] = scales_TS
    parts.rope_PIR[places_T, 0] = rope_TR


def read_fp8(cache_PIB: Tensor, latent: int, rope: int, dtype: torch.dtype) -> Tensor:
    """The cache [P, I, L] in `dtype` that one in fp8 stands for."""
    parts = fp8_parts(cache_PIB, latent, rope, dtype)
    scales_PIC = parts.scales_PIS.repeat_interleave(BLOCK, -1)[..., :latent]
    return torch.cat([(parts.codes_PIC.float() * scales_PIC).to(dtype), parts.rope_PIR], -1)
