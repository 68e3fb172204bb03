"""Block-scaled fp8 checkpoints: what config.json says of them, and the way back to wider numbers.

Weights are e4m3 in blocks of 128 x 128, each with an fp32 scale in `<weight>_scale_inv`: value = stored * scale.
Checkpoints mix both kinds: a linear may be stored wide although config.json would have it in fp8, never the reverse.
Legend: N outputs, K inputs, n and k their blocks of 128, rounded up. Source: longcat-flash.md 2.2.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from services.checkpoint.config import CheckpointError

BLOCK = 128
STORED = "F8_E4M3"
SCALE_SUFFIX = "_scale_inv"
_LISTS = ("ignored_layers", "modules_to_not_convert")
_NEVER = ("embed_tokens", "lm_head", "router")
_ONLY: dict[str, tuple[Any, ...]] = {
    "quant_method": ("fp8",),
    "fmt": ("e4m3", None),
    "activation_scheme": ("dynamic", None),
    "weight_block_size": ([BLOCK, BLOCK],),
}


def scale_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """One scale per block; edge blocks are smaller and have one too."""
    return tuple(-(-size // BLOCK) for size in shape)


@dataclass(frozen=True, slots=True)
class Quantization:
    """The modules that config.json leaves wide, by any part of their dotted names."""

    wide: tuple[str, ...]

    @classmethod
    def from_config(cls, raw: Mapping[str, Any]) -> Quantization | None:
        """From a parsed config.json; None for a checkpoint without fp8. Raises CheckpointError naming the field."""
        given = raw.get("quantization_config")
        if given is None:
            return None
        if not isinstance(given, Mapping):
            raise CheckpointError(f"config.json: quantization_config: {given!r} is not an object")
        for name, allowed in _ONLY.items():
            if given.get(name) not in allowed:
                why = f"{given.get(name)!r} is not supported, only {allowed[0]!r}"
                raise CheckpointError(f"config.json: quantization_config.{name}: {why}")
        wide = [module for name in _LISTS for module in _names(f"quantization_config.{name}", given.get(name))]
        return cls((*wide, *_names("disable_quant_module", raw.get("disable_quant_module"))))

    def left_wide(self, weight: str) -> str:
        """The module that keeps a tensor out of fp8; empty when none does."""
        path = f".{weight.removesuffix('.weight')}."
        return next((module for module in (*self.wide, *_NEVER) if f".{module}." in path), "")


def _names(field: str, value: Any) -> list[str]:
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(name, str) and name for name in value):
        raise CheckpointError(f"config.json: {field}: {value!r} is not a list of module names")
    return value


def dequantize(weight_NK: Tensor, scale_nk: Tensor, dtype: torch.dtype) -> Tensor:
    """[N, K] in `dtype`: each value times its block's scale in fp32, rounded once."""
    wide_NK = torch.empty(weight_NK.shape, dtype=dtype, device=weight_NK.device)
    columns = weight_NK.shape[1]
    for block, scale_k in enumerate(scale_nk):  # by rows of blocks, so that little of it is in fp32 at a time
        rows = slice(block * BLOCK, (block + 1) * BLOCK)
        wide_NK[rows] = (weight_NK[rows].float() * scale_k.repeat_interleave(BLOCK)[:columns]).to(dtype)
    return wide_NK
