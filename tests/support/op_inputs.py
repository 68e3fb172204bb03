"""Random inputs for the ops' tests. Legend as in the ops' files."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

DTYPES = [torch.float32, torch.bfloat16]
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"  # of the Triton bodies' tests


def rand(*shape: int, dtype: torch.dtype = torch.float32, scale: float = 1.0) -> Tensor:
    return (torch.randn(*shape) * scale).to(dtype)


def i32(values: list[int] | Tensor) -> Tensor:
    return torch.as_tensor(values, dtype=torch.int32)


@dataclass(frozen=True)
class Sizes:
    """One MLA's sizes; the defaults are uneven on purpose."""

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


def project_weights(s: Sizes, dtype: torch.dtype) -> tuple[object, ...]:
    """Everything between `x` and `positions` in mla_project's arguments."""
    return (
        1 + rand(s.hidden, dtype=dtype, scale=0.1),
        1e-5,
        rand(s.q_rank, s.hidden, dtype=dtype, scale=s.hidden**-0.5),
        1 + rand(s.q_rank, dtype=dtype, scale=0.1),
        rand(s.heads * (s.nope + s.rope), s.q_rank, dtype=dtype, scale=s.q_rank**-0.5),
        rand(s.width, s.hidden, dtype=dtype, scale=s.hidden**-0.5),
        1 + rand(s.latent, dtype=dtype, scale=0.1),
        rand(s.heads, s.latent, s.nope, dtype=dtype, scale=s.nope**-0.5),
        rand(256, s.rope),
    )


def close(actual: Tensor, expected: Tensor, dtype: torch.dtype) -> None:
    """Equal but for the rounding of sums: a few ulps of bf16, or fp32's accumulated error."""
    tolerance = 3e-2 if dtype == torch.bfloat16 else 2e-5
    torch.testing.assert_close(actual.double(), expected.double(), rtol=tolerance, atol=tolerance)
