"""Reads the config.json of a model directory: everything about it that can be refused without its weights. No torch."""

from __future__ import annotations

from pathlib import Path

from services.checkpoint.config import ModelConfig
from services.checkpoint.quantization import Quantization
from services.checkpoint.safetensors import json_object


def read_config(file: Path) -> tuple[ModelConfig, Quantization | None]:
    """The model's sizes, and which of its modules are not in fp8; None where none is. Raises CheckpointError."""
    raw = json_object(file)
    config = ModelConfig.from_dict(raw)
    return config, Quantization.from_config(raw)


def expert_bytes(config: ModelConfig, quantization: Quantization | None) -> int:
    """The bytes of one FFN expert in the files: three matrices, without the scales of fp8."""
    item = 1 if quantization else 4 if config.torch_dtype == "float32" else 2
    return 3 * config.hidden_size * config.expert_ffn_hidden_size * item
