"""The dense path: MLPs, the gate, the head. In a shortcut layer it is the window that hides the experts' round trip."""

from __future__ import annotations

from services.planner.shape import BYTES, Shape
from services.planner.work import Work, product

MLP_OPS, GATE_OPS, HEAD_OPS = 4, 3, 3  # norm, gate and up, activation, down; logits, top-k, counts; norm, head, sampler
GATHER_OPS = 2  # of a tensor-parallel MLP: all-gather before, reduce-scatter after


def mlp(shape: Shape, rows: float, dtype: str, tp: int = 1) -> Work:
    """One sublayer's MLP; with `tp` each of so many devices has a part of it and the rows of all of them."""
    if not shape.dense_ffn:
        return Work()
    ops = MLP_OPS + (GATHER_OPS if tp > 1 else 0)
    return product(rows * tp, shape.dense_params / tp, dtype, BYTES[dtype], ops)


def gate(shape: Shape, rows: float) -> Work:
    """In fp32 where the model asks for it; its bytes are few."""
    return product(rows, shape.gate_params, "bf16", BYTES["fp32"], GATE_OPS)


def head(shape: Shape, rows: float, tp: int = 1) -> Work:
    return product(rows, shape.vocabulary * shape.hidden / tp, "bf16", BYTES["bf16"], HEAD_OPS)


def plain_ffn(shape: Shape, rows: float, dtype: str, tp: int = 1) -> Work:
    """The MLP of a layer without experts."""
    return product(rows, 3 * shape.hidden * shape.plain_ffn / tp, dtype, BYTES[dtype], MLP_OPS)
