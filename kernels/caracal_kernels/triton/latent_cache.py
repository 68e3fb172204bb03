"""A latent cache as kernels get it: pointers to the parts of its rows, and how far apart rows are in each."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from caracal_kernels.latent_cache import fp8_parts
from caracal_kernels.triton.tiles import FP8_BLOCK


class CacheArguments(NamedTuple):
    """Latents, scales (only those of a cache in fp8 are read) and rope keys; what kernels are compiled for."""

    tensors: tuple[Tensor, Tensor, Tensor]
    fp8: bool
    constants: dict[str, int]  # strides of rows in elements of their tensors


def parts_of(cache: Tensor, latent: int, rope: int, dtype: torch.dtype) -> CacheArguments:
    """The parts of a cache [pages, positions, L], or of bytes in fp8."""
    fp8 = cache.dtype == torch.uint8
    tensors: tuple[Tensor, Tensor, Tensor] = (cache[..., :latent], cache, cache[..., latent:])
    if fp8:
        tensors = fp8_parts(cache, latent, rope, dtype)
    names = ("LATENT_STRIDE", "SCALE_STRIDE", "ROPE_STRIDE")
    strides = {name: tensor.stride(1) for name, tensor in zip(names, tensors, strict=True)}
    return CacheArguments(tensors, fp8, {"FP8": fp8, "FP8_BLOCK": FP8_BLOCK} | strides)
