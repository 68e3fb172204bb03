"""A latent cache as kernels get it: pointers to the parts of its rows, and how far apart rows are in each."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from caracal_kernels.latent_cache import fp8_parts


class CacheArguments(NamedTuple):
    """Latents, scales (those of no cache but one in fp8 are read) and rope keys; strides of rows in their elements."""

    tensors: tuple[Tensor, Tensor, Tensor]
    strides: tuple[int, int, int]
    fp8: bool


def parts_of(cache: Tensor, latent: int, rope: int, dtype: torch.dtype) -> CacheArguments:
    """The parts of a cache [pages, positions, L], or of bytes in fp8."""
    fp8 = cache.dtype == torch.uint8
    if fp8:
        tensors: tuple[Tensor, Tensor, Tensor] = fp8_parts(cache, latent, rope, dtype)
    else:
        tensors = cache[..., :latent], cache, cache[..., latent:]
    first, second, third = (tensor.stride(1) for tensor in tensors)
    return CacheArguments(tensors, (first, second, third), fp8)
