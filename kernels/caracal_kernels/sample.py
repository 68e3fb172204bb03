"""Gumbel-max sampling from a counter hash: no state, so any worker draws the same. Legend: B rows, V vocabulary."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from caracal_kernels.registry import define_op

_M64 = (1 << 64) - 1


def _signed(value: int) -> int:
    value &= _M64
    return value - (1 << 64) if value >> 63 else value


def _shift_right(x: Tensor, bits: int) -> Tensor:
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def splitmix64(x: Tensor) -> Tensor:
    """splitmix64's output function on int64 bit patterns (torch multiplies modulo 2^64)."""
    x = x + _signed(0x9E3779B97F4A7C15)
    x = (x ^ _shift_right(x, 30)) * _signed(0xBF58476D1CE4E5B9)
    x = (x ^ _shift_right(x, 27)) * _signed(0x94D049BB133111EB)
    return x ^ _shift_right(x, 31)


def gumbel_reference(seed: int, position: int, vocabulary: int) -> Tensor:
    """[V] fp64 Gumbel noise: a function of (seed, position, id) alone."""
    key = splitmix64(splitmix64(torch.tensor(seed, dtype=torch.int64)) + position)
    bits_V = splitmix64(key + torch.arange(vocabulary, dtype=torch.int64))
    uniform_V = (_shift_right(bits_V, 11).double() + 0.5) * 2.0**-53
    return -torch.log(-torch.log(uniform_V))


def kept_reference(logits_V: Tensor, top_k: int, top_p: float, min_p: float) -> Tensor:
    """[V] bool: what top-k, then top-p, then min-p leave of tempered logits; equal ones count by id, lower first."""
    order = torch.sort(logits_V, descending=True, stable=True).indices
    probability = torch.softmax(logits_V, dim=-1)[order]
    keep = torch.ones(len(order), dtype=torch.bool)
    if top_k > 0:
        keep[top_k:] = False
    if top_p < 1.0:
        kept = torch.where(keep, probability, 0.0)
        keep &= (kept.cumsum(0) - kept) < top_p * kept.sum()
        keep[0] = True
    if min_p > 0.0:
        keep &= probability >= min_p * probability[0]
    result = torch.zeros_like(keep)
    result[order] = keep
    return result


def _first_highest(values_V: Tensor) -> int:
    plain_V = torch.where(values_V.isnan(), -math.inf, values_V)
    return int(torch.nonzero(plain_V == plain_V.max())[0])


def sample_reference(
    logits_BV: Tensor,
    seeds_B: Tensor,
    positions_B: Tensor,
    temperature_B: Tensor,
    top_k_B: Tensor,
    top_p_B: Tensor,
    min_p_B: Tensor,
) -> Tensor:
    """Token ids [B] int64 from fp32 logits. Temperature 0 is argmax; ties go to the lowest id.

    Truncation is top-k (0 = off), then top-p (1 = off), then min-p (0 = off), on the tempered distribution.
    """
    ids = []
    for row, logits_V in enumerate(logits_BV):
        temperature = float(temperature_B[row])
        if temperature == 0.0:
            ids.append(_first_highest(logits_V))
            continue
        tempered_V = logits_V.double() / temperature
        keep_V = kept_reference(tempered_V, int(top_k_B[row]), float(top_p_B[row]), float(min_p_B[row]))
        noise_V = gumbel_reference(int(seeds_B[row]), int(positions_B[row]), len(logits_V))
        score_V = torch.where(keep_V, tempered_V + noise_V, -math.inf)
        ids.append(_first_highest(score_V))
    return torch.tensor(ids, dtype=torch.int64)


def _fake(logits_BV: Tensor, *_: Tensor) -> Tensor:
    return logits_BV.new_empty((logits_BV.shape[0],), dtype=torch.int64)


sample = define_op(sample_reference, fake=_fake, triton="sample")
