"""What a kernel is given, looked at on the host: a wrong shape would make it read another tensor's memory."""

from __future__ import annotations

import torch
from torch import Tensor

Shaped = tuple[Tensor | None, tuple[int, ...]]


def check(op: str, x: Tensor, **others: Shaped) -> None:
    """x is a contiguous matrix of fp32, bf16 or e4m3; each other tensor has the shape given, and x's dtype and device.

    Raises RuntimeError that names the op and the argument. What the tensors hold is not looked at.
    """
    if x.dim() != 2 or not x.is_contiguous() or x.dtype not in (torch.float32, torch.bfloat16, torch.float8_e4m3fn):
        raise RuntimeError(f"{op}: x is {x.dtype} {tuple(x.shape)}, wanted a contiguous matrix of fp32, bf16 or e4m3")
    for name, (tensor, shape) in others.items():
        if tensor is not None and (
            tensor.shape != shape or tensor.dtype != x.dtype or tensor.device != x.device or not tensor.is_contiguous()
        ):
            found = f"{tensor.dtype} {tuple(tensor.shape)} on {tensor.device}"
            raise RuntimeError(f"{op}: {name} is {found}, wanted contiguous {x.dtype} {shape} on {x.device}")


def check_all(op: str, like: Tensor, name: str, tensors: list[Tensor], shape: tuple[int, ...]) -> None:
    """`check` of many tensors, a few microseconds for all when they are right: an op has two for each expert."""
    if not all(w.shape == shape and w.dtype == like.dtype and w.is_contiguous() for w in tensors):
        for tensor in tensors:
            check(op, like, **{name: (tensor, shape)})
