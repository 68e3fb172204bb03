"""Block-scaled fp8 checkpoints: the quantization fields of config.json, and dequantization.

Weights are e4m3 in blocks of 128 x 128, each with an fp32 scale in `<weight>_scale_inv`: value = stored * scale.
A linear that config.json does not exclude from fp8 may still be in bf16 or fp32; an excluded one is never in fp8.
Legend: N outputs, K inputs, n and k their counts of blocks of 128, rounded up.
Source: docs/longcat-flash.md, FP8 checkpoints.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from services.checkpoint.errors import CheckpointError

BLOCK = 128
FP8_NAME = "F8_E4M3"
SCALE_SUFFIX = "_scale_inv"
_LISTS = ("ignored_layers", "modules_to_not_convert")
_NEVER = ("embed_tokens", "lm_head", "router")
_ONLY: dict[str, tuple[Any, ...]] = {
    "quant_method": ("fp8",),
    "fmt": ("e4m3", None),
    "activation_scheme": ("dynamic", None),
    "weight_block_size": ([BLOCK, BLOCK],),
    "scale_fmt": (None, "float"),
    "dequantize": (False, None),
}


def scale_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of a weight's scales: one per block, also for the smaller blocks at the edges."""
    return tuple(-(-size // BLOCK) for size in shape)


@dataclass(frozen=True, slots=True)
class Quantization:
    """The modules that config.json excludes from fp8; each matches as any part of a dotted name, or as all of it."""

    excluded: tuple[str, ...]

    @classmethod
    def from_config(cls, raw: Mapping[str, Any]) -> Quantization | None:
        """Reads a parsed config.json; None for a checkpoint without fp8. Raises CheckpointError naming the field."""
        given = raw.get("quantization_config")
        if given is None:
            return None
        if not isinstance(given, Mapping):
            raise CheckpointError(f"config.json: quantization_config: {given!r} is not an object")
        for name, allowed in _ONLY.items():
            if given.get(name) not in allowed:
                why = f"{given.get(name)!r} is not supported, only {allowed[0]!r}"
                raise CheckpointError(f"config.json: quantization_config.{name}: {why}")
        unknown = sorted(name for name in given if name not in (*_ONLY, *_LISTS) and given[name] is not None)
        if unknown:
            raise CheckpointError(f"config.json: quantization_config.{unknown[0]}: is not known here")
        excluded = [module for name in _LISTS for module in _names(f"quantization_config.{name}", given.get(name))]
        return cls((*excluded, *_names("disable_quant_module", raw.get("disable_quant_module"))))

    def excluding_module(self, weight: str) -> str:
        """The module that excludes a weight from fp8; empty when none does."""
        path = f".{weight.removesuffix('.weight')}."
        named = (*self.excluded, *_NEVER)
        return next((module for module in named if f".{module.removesuffix('.weight')}." in path), "")


def _names(field: str, value: Any) -> list[str]:
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(name, str) and name for name in value):
        raise CheckpointError(f"config.json: {field}: {value!r} is not a list of module names")
    return value


def dequantize(weight_NK: Tensor, scale_nk: Tensor, dtype: torch.dtype) -> Tensor:
    """Returns [N, K] in `dtype`: each value times its block's scale in fp32, rounded once."""
    out_NK = torch.empty(weight_NK.shape, dtype=dtype, device=weight_NK.device)
    columns = weight_NK.shape[1]
    for block, scale_k in enumerate(scale_nk):  # a row of blocks at a time, to keep the fp32 copy small
        rows = slice(block * BLOCK, (block + 1) * BLOCK)
        out_NK[rows] = (weight_NK[rows].float() * scale_k.repeat_interleave(BLOCK)[:columns]).to(dtype)
    return out_NK
