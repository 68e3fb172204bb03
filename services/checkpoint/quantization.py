"""The quantization fields of config.json: which modules are excluded from fp8, and that no other format is used. Pure.

Source: docs/longcat-flash.md, FP8 checkpoints.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from services.checkpoint.errors import CheckpointError, shown

BLOCK = 128  # inputs and outputs that share a scale
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
            raise CheckpointError(f"config.json: quantization_config: {shown(given)} is not an object")
        for name, allowed in _ONLY.items():
            if given.get(name) not in allowed:
                why = f"{shown(given.get(name))} is not supported, only {allowed[0]!r}"
                raise CheckpointError(f"config.json: quantization_config.{name}: {why}")
        unknown = sorted(name for name in given if name not in (*_ONLY, *_LISTS) and given[name] is not None)
        if unknown:
            raise CheckpointError(f"config.json: quantization_config.{shown(unknown[0])[1:-1]}: is not known here")
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
        raise CheckpointError(f"config.json: {field}: {shown(value)} is not a list of module names")
    return value
