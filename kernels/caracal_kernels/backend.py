"""Which bodies the ops run: Triton on a GPU; on a CPU compiled kernels for the widest instruction set at hand, or the
plain references, or (on demand) Triton's interpreter."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
from functools import cache
from pathlib import Path
from types import ModuleType

import torch

from caracal_kernels.build_stamp import stamp

KINDS = ("avx512bf16", "avx2", "reference", "triton")
log = logging.getLogger("caracal_kernels")


def _extension() -> ModuleType:
    """The compiled extension. Raises ImportError when there is none, or it was made from other sources or torch.

    The file is looked at before it is loaded: one that does not fit may crash the process instead of failing to import.
    """
    spec = importlib.util.find_spec("caracal_kernels._cpu")
    if spec is None or spec.origin is None:
        raise ImportError("they were not compiled on this machine")
    if stamp(torch.__version__).encode() not in Path(spec.origin).read_bytes():
        raise ImportError(f"{spec.origin} was compiled from other sources or for another torch; install Caracal again")
    module = importlib.import_module("caracal_kernels._cpu")
    importlib.import_module("caracal_kernels.fakes")
    return module


def _load() -> str:
    wanted = os.environ.get("CARACAL_KERNELS", "")
    if wanted and wanted not in KINDS:
        raise ValueError(f"CARACAL_KERNELS is {wanted!r}: not one of {', '.join(KINDS)}")
    if wanted == "reference":
        return wanted
    if wanted == "triton":
        if importlib.util.find_spec("triton") is None:
            raise ValueError("CARACAL_KERNELS=triton, but triton is not installed")
        return wanted
    try:
        extension = _extension()
    except ImportError as error:
        if wanted:
            raise ValueError(f"CARACAL_KERNELS={wanted}, but the compiled kernels cannot be loaded: {error}") from None
        log.warning("compiled CPU kernels cannot be loaded (%s): running on the slower reference ops", error)
        return "reference"
    best: str = extension.best_isa()
    if wanted and not extension.use_isa(wanted):
        raise ValueError(f"CARACAL_KERNELS={wanted}: this CPU cannot run it, the best it has is {best}")
    if best == "reference":
        log.warning("this CPU has neither AVX2 nor AVX-512: running on the slower reference ops")
    return wanted or best


@cache
def available() -> str:
    """The kernels that CPU tensors get: avx512bf16, avx2, reference or triton. Part of the numerics class.

    Raises ValueError when CARACAL_KERNELS asks for some that cannot be had.
    """
    return _load()


def compiled(tensor: torch.Tensor) -> bool:
    """Whether the compiled kernels take this tensor."""
    return available() in ("avx512bf16", "avx2") and tensor.device.type in ("cpu", "meta")


def on_triton(tensor: torch.Tensor) -> bool:
    """Whether the Triton bodies take this tensor: always on a GPU, on a CPU only when CARACAL_KERNELS=triton."""
    return tensor.is_cuda or (tensor.device.type == "cpu" and available() == "triton")
