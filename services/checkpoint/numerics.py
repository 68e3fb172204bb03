"""The numerics class."""

from __future__ import annotations

import hashlib

import torch
from caracal_kernels import available, probe

from services.checkpoint.device import CPU
from services.checkpoint.reader import Checkpoint
from services.transport.payload import BLOCK, FP8


def numerics_class(checkpoint: Checkpoint, dtype: torch.dtype, device: torch.device = CPU) -> str:
    """Equal on two workers exactly when their answers are interchangeable bit for bit."""
    parts = "\n".join([kernels_of(device), probe(dtype, device), str(dtype), checkpoint.digest])
    return "caracal-" + hashlib.sha256(parts.encode()).hexdigest()[:16]


def kernels_of(device: torch.device) -> str:
    """The kernels that run there, by name: part of the numerics class."""
    if device.type != "cuda":
        return available()
    from caracal_kernels.triton.tile_invariance import row_adaptive_dtypes

    major, minor = torch.cuda.get_device_capability(device)
    chosen = ", ".join(row_adaptive_dtypes(device)) or "none"
    return f"triton sm_{major}{minor} {torch.cuda.get_device_name(device)}; tiles by rows: {chosen}"


def class_of(numerics_class: str, wire: torch.dtype) -> str:
    """The numerics class of workers that exchange rows in `wire`: with fp8 dispatch it is another one."""
    if wire != FP8:
        return numerics_class
    return "caracal-" + hashlib.sha256(f"{numerics_class}\nfp8 dispatch 1x{BLOCK}".encode()).hexdigest()[:16]
