"""Random weights of experts, and rows for them.

Legend: G experts, R rows, A (row, expert) assignments, D hidden, F inner width, N outputs and K inputs of a matrix.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from caracal_kernels.quantize import BLOCK, E4M3_MAX
from torch import Tensor
from torch.nn.functional import pad

from bench.gpu.bench import Bench

FP8 = torch.float8_e4m3fn


def quantize_weight(w_NK: Tensor) -> tuple[Tensor, Tensor]:
    """Returns (e4m3 [N, K], fp32 scales [N/128, K/128], rounded up), as in a checkpoint."""
    outputs, inputs = w_NK.shape
    padded = pad(w_NK.float(), (0, -inputs % BLOCK, 0, -outputs % BLOCK))
    blocks = padded.view(-(-outputs // BLOCK), BLOCK, -1, BLOCK)
    scale = blocks.abs().amax((1, 3)).clamp(min=1e-10) / E4M3_MAX
    stored = (blocks / scale[:, None, :, None]).view(padded.shape)[:outputs, :inputs]
    return stored.to(FP8).contiguous(), scale


@dataclass(frozen=True)
class Weights:
    """All experts' matrices in one allocation, so that baselines that need them stacked read the same bytes."""

    kind: str  # bf16 | fp8
    gate_up_G2FD: Tensor
    down_GDF: Tensor
    gate_up_scale: list[Tensor] = field(default_factory=list)  # of each expert [2 F/128, D/128]
    down_scale: list[Tensor] = field(default_factory=list)  # of each expert [D/128, F/128]

    @classmethod
    def random(cls, kind: str, experts: int, hidden: int, inner: int, device: torch.device) -> Weights:
        shapes = (2 * inner, hidden), (hidden, inner)
        if kind == "bf16":
            gate_up, down = (torch.stack([_matrix(*shape, device) for _ in range(experts)]) for shape in shapes)
            return cls(kind, gate_up, down)
        (gate_up, gate_up_scale), (down, down_scale) = (
            _stack_in_fp8([_matrix(*shape, device) for _ in range(experts)], parts)
            for shape, parts in zip(shapes, (2, 1), strict=True)
        )
        return cls(kind, gate_up, down, gate_up_scale, down_scale)

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Returns (G, D, F)."""
        return self.down_GDF.shape[0], self.down_GDF.shape[1], self.down_GDF.shape[2]

    @property
    def nbytes(self) -> int:
        scales = sum(scale.nbytes for scale in [*self.gate_up_scale, *self.down_scale])
        return self.gate_up_G2FD.nbytes + self.down_GDF.nbytes + scales

    def lists(self) -> list[list[Tensor]]:
        """Returns the op's arguments: gate_up and down, each followed by its scales if it has any."""
        parts = self.gate_up_G2FD, self.gate_up_scale, self.down_GDF, self.down_scale
        return [list(part) for part in parts if len(part)]


def _matrix(outputs: int, inputs: int, device: torch.device) -> Tensor:
    matrix = torch.randn(outputs, inputs, device=device, dtype=torch.bfloat16)
    return matrix.mul_(inputs**-0.5)


def _stack_in_fp8(matrices: list[Tensor], parts: int) -> tuple[Tensor, list[Tensor]]:
    """Gate and up, two parts of one matrix, have separate blocks. Empties `matrices` to save memory."""
    stored, scales = [], []
    while matrices:
        both = [quantize_weight(part) for part in matrices.pop().chunk(parts)]
        stored.append(torch.cat([w.view(torch.uint8) for w, _ in both]))
        scales.append(torch.cat([scale for _, scale in both]))
    return torch.stack(stored).view(FP8), scales


@dataclass(frozen=True)
class Rows:
    """One batch: every assignment has its own row, in random order, and every expert has equally many."""

    x_RD: Tensor
    row_A: Tensor  # int32
    count_G: Tensor  # int32

    @classmethod
    def random(cls, bench: Bench, experts: int, each: int) -> Rows:
        assignments = experts * each
        return cls(
            torch.randn(assignments, bench.sizes.hidden, device=bench.device, dtype=torch.bfloat16),
            torch.randperm(assignments, device=bench.device).int(),
            torch.full((experts,), each, dtype=torch.int32, device=bench.device),
        )


def moved_and_flops(weights: Weights, assignments: int) -> tuple[int, int]:
    """Returns (bytes, flops): weights and rows read once, results written once, nothing between the two products."""
    _, hidden, inner = weights.sizes
    return weights.nbytes + 2 * assignments * hidden * 2, 2 * assignments * 3 * hidden * inner
