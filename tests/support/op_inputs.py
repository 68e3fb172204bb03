"""Random inputs for the tests of the ops. Legend as in the ops' files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from inspect import signature
from typing import Any

import torch
from caracal_kernels import MlaWeights, mla_project_reference
from torch import Tensor

DTYPES = [torch.float32, torch.bfloat16]
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"  # of the tests of Triton kernels


def rand(*shape: int, dtype: torch.dtype = torch.float32, scale: float = 1.0) -> Tensor:
    return (torch.randn(*shape) * scale).to(dtype)


def i32(values: Sequence[int] | Sequence[Sequence[int]] | Tensor) -> Tensor:
    return torch.as_tensor(values, dtype=torch.int32)


@dataclass(frozen=True)
class Sizes:
    """The sizes of one MLA; the defaults are uneven on purpose."""

    hidden: int = 72
    heads: int = 3
    nope: int = 12
    rope: int = 8
    latent: int = 24
    value: int = 10
    q_rank: int = 20

    @property
    def width(self) -> int:
        return self.latent + self.rope


ODD = Sizes()
EVEN = Sizes(hidden=128, heads=4, nope=32, rope=16, latent=64, value=32, q_rank=48)


def mla_weights(s: Sizes, dtype: torch.dtype) -> MlaWeights:
    return MlaWeights(
        norm_D=1 + rand(s.hidden, dtype=dtype, scale=0.1),
        q_a_QD=rand(s.q_rank, s.hidden, dtype=dtype, scale=s.hidden**-0.5),
        q_a_norm_Q=1 + rand(s.q_rank, dtype=dtype, scale=0.1),
        q_b_EQ=rand(s.heads * (s.nope + s.rope), s.q_rank, dtype=dtype, scale=s.q_rank**-0.5),
        kv_a_LD=rand(s.width, s.hidden, dtype=dtype, scale=s.hidden**-0.5),
        kv_a_norm_C=1 + rand(s.latent, dtype=dtype, scale=0.1),
        w_uk_HCN=rand(s.heads, s.latent, s.nope, dtype=dtype, scale=s.nope**-0.5),
        w_uv_HUC=rand(s.heads, s.value, s.latent, dtype=dtype, scale=s.latent**-0.5),
        o_proj_DO=rand(s.hidden, s.heads * s.value, dtype=dtype, scale=0.1),
        cos_sin_MR=rand(256, s.rope),
        norm_eps=1e-5,
        lora_eps=1e-6,
        q_scale=1.5,
        kv_scale=2.5,
    )


def project_arguments(w: MlaWeights) -> tuple[Any, ...]:
    """What `mla_project_reference` takes of the weights, in its order: everything after the cache."""
    names = list(signature(mla_project_reference).parameters)[4:]
    return tuple(getattr(w, name) for name in names)


def close(actual: Tensor, expected: Tensor, dtype: torch.dtype) -> None:
    """Asserts equality up to the rounding of sums: a few ulps of bf16, or fp32's accumulated error."""
    tolerance = 3e-2 if dtype == torch.bfloat16 else 2e-5
    torch.testing.assert_close(actual.double(), expected.double(), rtol=tolerance, atol=tolerance)


def visible_keys(position: int, sink_blocks: int, recent_blocks: int) -> Tensor:
    """The positions that a row reads, by the published rule: block b is visible if b < sink or b >= n - recent."""
    every = torch.arange(position + 1)
    if not recent_blocks:
        return every
    blocks = -(-(position + 1) // 128)
    return every[(every // 128 < sink_blocks) | (every // 128 >= blocks - recent_blocks)]
