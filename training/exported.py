"""Reads an exported directory back into the training model."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor

from training.config import ModelConfig
from training.model import LongcatFlash


def load_exported(folder: Path, dtype: torch.dtype = torch.bfloat16) -> tuple[LongcatFlash, Tokenizer]:
    """Returns the model in `dtype` (routers stay fp32) and the tokenizer. Raises KeyError when a tensor is missing."""
    config = ModelConfig.from_json(json.loads((folder / "config.json").read_text(encoding="utf-8")))
    index = json.loads((folder / "model.safetensors.index.json").read_text(encoding="utf-8"))
    tensors: dict[str, Tensor] = {}
    for file in sorted(set(index["weight_map"].values())):
        tensors |= load_file(folder / file)
    model = LongcatFlash(config)
    model.load_state_dict({name: _read(tensors, name, config) for name in model.state_dict()})
    if dtype == torch.bfloat16:
        model.to_bfloat16()
    return model.eval(), Tokenizer.from_file(str(folder / "tokenizer.json"))


def _read(tensors: dict[str, Tensor], name: str, config: ModelConfig) -> Tensor:
    full = name if name.startswith("lm_head") else f"model.{name}"
    stem, _, kind = full.rpartition("experts.")
    experts = range(config.n_routed_experts)
    if kind == "gate_up_E2FD":
        gates_ups = [[tensors[f"{stem}experts.{e}.{p}_proj.weight"] for p in ("gate", "up")] for e in experts]
        return torch.stack([torch.cat(gate_up) for gate_up in gates_ups])
    if kind == "down_EDF":
        return torch.stack([tensors[f"{stem}experts.{e}.down_proj.weight"] for e in experts])
    return tensors[full]
