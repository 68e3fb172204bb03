"""Reads matrices as this process's kernels read them fastest: packed, and in fp8 where they are stored so.

On the compiled CPU kernels a matrix in fp8 stays 8-bit, and its products have the bits of the dequantized one: what is
kept is no part of the numerics class (docs/decisions/0019-fp8-weights-stay-8-bit-on-cpus.md). A matrix that does not
fit their blocks is dequantized.
Legend: N outputs, K inputs, n = N / 64 and k = K / 128 their counts of blocks.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from caracal_kernels import FP8_DEPTH, FP8_OUTPUTS, pack_fp8, pack_weights, takes_fp8
from torch import Tensor

from services.checkpoint.quantization import BLOCK
from services.checkpoint.reader import HOST, Checkpoint, ExpertWeights, load_expert
from services.checkpoint.staging import Staging
from services.checkpoint.tensors import expert_matrices

_LARGEST = torch.finfo(torch.float8_e4m3fn).max


def load_packed(
    checkpoint: Checkpoint, names: Sequence[str], dtype: torch.dtype, to: Staging = HOST, rows: range | None = None
) -> Tensor:
    """Reads matrices into one, packed: the first one's outputs, then the next one's; of each only `rows`.

    Raises CheckpointError for values that are not finite in `dtype`.
    """
    if all(stays_fp8(checkpoint, name, dtype, to, rows) for name in names):
        stored = [read_fp8(checkpoint, name, dtype, to, rows) for name in names]
        weights, scales = zip(*stored, strict=True)
        return pack_fp8(_joined(weights), _joined(scales))
    return pack_weights(_joined([checkpoint.tensor(name, dtype, to, rows) for name in names]))


def load_packed_expert(
    checkpoint: Checkpoint, layer: int, expert: int, dtype: torch.dtype, to: Staging = HOST
) -> ExpertWeights:
    """Reads one expert, packed; without scales, also in fp8. Raises CheckpointError."""
    if checkpoint.is_fused(layer):
        weights = load_expert(checkpoint, layer, expert, dtype, to)
        return ExpertWeights(pack_weights(weights.gate_up_2FD), pack_weights(weights.down_DF))
    gate, up, down = expert_matrices(layer, expert)
    return ExpertWeights(load_packed(checkpoint, [gate, up], dtype, to), load_packed(checkpoint, [down], dtype, to))


def stays_fp8(checkpoint: Checkpoint, name: str, dtype: torch.dtype, to: Staging, rows: range | None = None) -> bool:
    """Whether `rows` of a matrix are stored in fp8, and are whole blocks that the kernels take for rows of `dtype`."""
    if not takes_fp8(dtype, to.device) or not checkpoint.is_fp8(name):
        return False
    outputs, inputs = checkpoint.shape(name)
    rows = range(outputs) if rows is None else rows
    return bool(rows) and not (rows.start % FP8_OUTPUTS or rows.stop % FP8_OUTPUTS or inputs % FP8_DEPTH)


def read_fp8(
    checkpoint: Checkpoint, name: str, dtype: torch.dtype, to: Staging, rows: range | None = None
) -> tuple[Tensor, Tensor]:
    """(e4m3 weight [N, K], fp32 scales [n, k]) of a matrix that stays in fp8. Raises CheckpointError."""
    found = checkpoint.fp8(name, to, rows)
    assert found is not None, "it is stored in fp8"
    weight_NK, scale_nk = found
    if not bool((_LARGEST * scale_nk).to(dtype).isfinite().all()):
        checkpoint.tensor(name, dtype, to, rows)  # dequantizes it, and raises where a value is too large
    first = rows.start % BLOCK // FP8_OUTPUTS if rows else 0
    scale_nk = scale_nk.repeat_interleave(BLOCK // FP8_OUTPUTS, dim=0)
    return weight_NK, scale_nk[first : first + len(weight_NK) // FP8_OUTPUTS].contiguous()


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return torch.cat(list(parts)) if len(parts) > 1 else parts[0]
