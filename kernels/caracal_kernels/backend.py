"""Which bodies CPU tensors get: compiled ones for the widest instruction set at hand, or the plain references, or (on
demand) Triton's interpreter. Decided once, when the package is imported."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
from functools import cache
from pathlib import Path
from types import ModuleType

import torch

from caracal_kernels.build_id import build_id

KINDS = ("avx512bf16", "avx2", "reference", "triton")
log = logging.getLogger("caracal_kernels")


class KernelsUnavailable(ValueError):
    """CARACAL_KERNELS asks for kernels that this machine does not have; the message begins with the variable's name."""


def _extension() -> ModuleType:
    """The compiled extension. Raises ImportError when there is none, or it was made from other sources or torch.

    The file is looked at before it is loaded: one that does not fit may crash the process instead of failing to import.
    """
    spec = importlib.util.find_spec("caracal_kernels._cpu")
    if spec is None or spec.origin is None:
        raise ImportError("they were not compiled on this machine")
    if build_id(torch.__version__).encode() not in Path(spec.origin).read_bytes():
        raise ImportError(f"{spec.origin} was compiled from other sources or for another torch; install Caracal again")
    return importlib.import_module("caracal_kernels._cpu")


def _load() -> str:
    wanted = os.environ.get("CARACAL_KERNELS", "")
    if wanted and wanted not in KINDS:
        raise KernelsUnavailable(f"CARACAL_KERNELS is {wanted!r}: must be one of {', '.join(KINDS)}")
    if wanted == "reference":
        return wanted
    if wanted == "triton":
        if importlib.util.find_spec("triton") is None:
            raise KernelsUnavailable("CARACAL_KERNELS is 'triton', but triton is not installed")
        return wanted
    try:
        extension = _extension()
    except ImportError as error:
        if wanted:
            raise KernelsUnavailable(
                f"CARACAL_KERNELS is {wanted!r}, but the compiled kernels cannot be loaded: {error}"
            ) from None
        log.warning("compiled CPU kernels cannot be loaded (%s): running on the slower reference ops", error)
        return "reference"
    best: str = extension.best_isa()
    if wanted and not extension.use_isa(wanted):
        raise KernelsUnavailable(f"CARACAL_KERNELS is {wanted!r}: this CPU cannot run it, the best it has is {best}")
    if best == "reference":
        log.warning("this CPU has neither AVX2 nor AVX-512: running on the slower reference ops")
    return wanted or best


@cache
def _loaded() -> str | KernelsUnavailable:
    try:
        return _load()
    except KernelsUnavailable as error:
        return error


def loading_error() -> KernelsUnavailable | None:
    """Why no kernels could be loaded; None when they were."""
    loaded = _loaded()
    return loaded if isinstance(loaded, KernelsUnavailable) else None


def cpu_backend() -> str:
    """The kernels that CPU tensors get: avx512bf16, avx2, reference or triton. Part of the numerics class.

    Raises KernelsUnavailable when CARACAL_KERNELS asks for some that cannot be had.
    """
    loaded = _loaded()
    if isinstance(loaded, KernelsUnavailable):
        raise loaded
    return loaded


def is_compiled() -> bool:
    """Whether CPU tensors run on the compiled kernels."""
    return cpu_backend() in ("avx512bf16", "avx2")
