"""Which bodies the ops run: the compiled CPU kernels for the widest instruction set at hand, or the plain references."""

from __future__ import annotations

import logging
import os
from functools import cache

import torch

KINDS = ("avx512bf16", "avx2", "reference")
log = logging.getLogger("caracal_kernels")


def _load() -> str:
    """Loads the extension and picks the instruction set. Raises ValueError when CARACAL_KERNELS asks for one that cannot be had."""
    wanted = os.environ.get("CARACAL_KERNELS", "")
    if wanted and wanted not in KINDS:
        raise ValueError(f"CARACAL_KERNELS is {wanted!r}: not one of {', '.join(KINDS)}")
    if wanted == "reference":
        return wanted
    try:
        from caracal_kernels import _cpu  # type: ignore[attr-defined]
    except ImportError as error:
        if wanted:
            raise ValueError(f"CARACAL_KERNELS={wanted}, but the compiled kernels cannot be loaded: {error}") from None
        log.warning("compiled CPU kernels cannot be loaded (%s): running on the slower reference ops", error)
        return "reference"
    best: str = _cpu.best_isa()
    if wanted and not _cpu.use_isa(wanted):
        raise ValueError(f"CARACAL_KERNELS={wanted}: this CPU cannot run it, the best it has is {best}")
    if best == "reference":
        log.warning("this CPU has neither AVX2 nor AVX-512: running on the slower reference ops")
    return wanted or best


@cache
def available() -> str:
    """The kernels in use: avx512bf16, avx2 or reference. Part of the numerics class: their bits differ."""
    return _load()


def compiled(tensor: torch.Tensor) -> bool:
    """Whether the compiled kernels take this tensor."""
    return available() != "reference" and tensor.is_cpu
