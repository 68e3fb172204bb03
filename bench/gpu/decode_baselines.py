"""Other ways to one decode step of latent attention. They read a cache without pages, which spares them the page table.

Legend: T sequences, H heads, C latent, L = C + rope, N keys. With one query per sequence the heads are its rows, all of
them over the same keys: so they stand where torch expects queries, and its kernels need not read keys once per head.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from bench.gpu.bench import Rival

if TYPE_CHECKING:
    from bench.gpu.decode_inputs import Batch

Compute = Callable[[Tensor, Tensor, int, float], Tensor]


def rivals(sets: Sequence[Batch], latent: int, scale: float) -> list[Rival]:
    """All of them over the same dense copies of the caches."""
    dense = [(batch.q_THL, _dense(batch)) for batch in sets]
    return [
        Rival(
            name,
            [partial(compute, q_THL, keys_TNL, latent, scale) for q_THL, keys_TNL in dense],
            partial(compute, *dense[0], latent, scale),
        )
        for name, compute in NAMED.items()
    ]


def _dense(batch: Batch) -> Tensor:
    keys_TXBL = batch.cache_PBL[batch.table_TX.long()]
    return keys_TXBL.flatten(1, 2)[:, : int(batch.position_T[0]) + 1].contiguous()


def _sdpa(q_THL: Tensor, keys_TNL: Tensor, latent: int, scale: float) -> Tensor:
    return scaled_dot_product_attention(
        q_THL[:, None], keys_TNL[:, None], keys_TNL[:, None, :, :latent], scale=scale
    ).squeeze(1)


def _sdpa_wide(q_THL: Tensor, keys_TNL: Tensor, latent: int, scale: float) -> Tensor:
    """Values as wide as keys, which some of torch's kernels ask for; what is too much is thrown away."""
    k_T1NL = keys_TNL[:, None]
    return scaled_dot_product_attention(q_THL[:, None], k_T1NL, k_T1NL, scale=scale)[:, 0, :, :latent]


def _products(q_THL: Tensor, keys_TNL: Tensor, latent: int, scale: float) -> Tensor:
    weights_THN = torch.softmax(torch.bmm(q_THL, keys_TNL.transpose(1, 2)) * scale, -1)
    return torch.bmm(weights_THN, keys_TNL[:, :, :latent])


NAMED: dict[str, Compute] = {
    "SDPA, no pages": _sdpa,
    "SDPA, no pages, values as wide as keys": _sdpa_wide,
    "torch.bmm, softmax, torch.bmm, no pages": _products,
}
