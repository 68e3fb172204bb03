"""Reads an exported directory back into the training model and its MTP module."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor

from training.model.config import ModelConfig
from training.model.longcat_flash import LongcatFlash
from training.mtp.head import MtpHead

MTP = "model.mtp."


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """Returns all tensors under their published names."""
    index = json.loads((folder / "model.safetensors.index.json").read_text(encoding="utf-8"))
    tensors: dict[str, Tensor] = {}
    for file in sorted(set(index["weight_map"].values())):
        tensors |= load_file(folder / file)
    return tensors


def read_config(folder: Path) -> ModelConfig:
    return ModelConfig.from_json(json.loads((folder / "config.json").read_text(encoding="utf-8")))


def load_exported(folder: Path, dtype: torch.dtype = torch.bfloat16) -> tuple[LongcatFlash, Tokenizer]:
    """Returns the model in `dtype` (routers stay fp32) and the tokenizer. Raises KeyError when a tensor is missing."""
    config, tensors = read_config(folder), read_tensors(folder)
    model = LongcatFlash(config)
    model.load_state_dict({name: _read(tensors, name, config) for name in model.state_dict()})
    if dtype == torch.bfloat16:
        model.to_bfloat16()
    return model.eval(), Tokenizer.from_file(str(folder / "tokenizer.json"))


def load_head(folder: Path, dtype: torch.dtype = torch.bfloat16) -> MtpHead:
    """Returns the MTP module in `dtype`. Raises KeyError when a tensor is missing."""
    tensors, head = read_tensors(folder), MtpHead(read_config(folder))
    head.load_state_dict({name: tensors[MTP + name] for name in head.state_dict()})
    return head.to(dtype).eval()


def trunk_of(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Returns all tensors but the MTP module's."""
    return {name: value for name, value in tensors.items() if not name.startswith(MTP)}


def digest(tensors: dict[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and every byte."""
    found = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        found.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        found.update(value.contiguous().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


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
