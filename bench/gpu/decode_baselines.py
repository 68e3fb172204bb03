"""Baselines of one decode step of latent attention. They read a contiguous cache, so they need no page table.

With one query per sequence, its heads attend to the same keys: they are passed as torch's query dimension, so that its
kernels need not read the keys once per head.
Legend: T sequences, H heads, C latent, L = C + rope, N keys, P pages of I positions, X pages of a sequence.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from bench.gpu.bench import Baseline

if TYPE_CHECKING:
    from bench.gpu.decode_inputs import Batch

Compute = Callable[[Tensor, Tensor, int, float], Tensor]


def baselines(sets: Sequence[Batch], latent: int, scale: float) -> list[Baseline]:
    """Returns all baselines, over the same contiguous caches."""
    dense = [(batch.q_THL, _dense(batch)) for batch in sets]
    return [
        Baseline(
            name,
            [partial(compute, q_THL, keys_TNL, latent, scale) for q_THL, keys_TNL in dense],
            partial(compute, *dense[0], latent, scale),
        )
        for name, compute in NAMED.items()
    ]


def _dense(batch: Batch) -> Tensor:
    keys_TXIL = batch.cache_PIL[batch.table_TX.long()]
    return keys_TXIL.flatten(1, 2)[:, : int(batch.position_T[0]) + 1].contiguous()


def _sdpa(q_THL: Tensor, keys_TNL: Tensor, latent: int, scale: float) -> Tensor:
    return scaled_dot_product_attention(
        q_THL[:, None], keys_TNL[:, None], keys_TNL[:, None, :, :latent], scale=scale
    ).squeeze(1)


def _sdpa_wide(q_THL: Tensor, keys_TNL: Tensor, latent: int, scale: float) -> Tensor:
    """Uses values as wide as the keys, which some of torch's kernels need, and drops the superfluous columns."""
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
