"""A Hugging Face model directory, read by slices and never trusted: the only file that knows Hugging Face's tensor names.

Opening reads config.json, the index and the safetensors headers, nothing else. Every tensor the config calls for is checked
(presence, shape, dtype, bounds) before the first weight is read; values are checked for NaN and infinity when they are.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from caracal_kernels import available, probe
from safetensors import SafetensorError, safe_open
from torch import Tensor

from services.model_config import CheckpointError, ModelConfig

__all__ = ["Checkpoint", "CheckpointError", "ExpertWeights", "ModelConfig", "load_expert", "numerics_class"]

INDEX = "model.safetensors.index.json"
MAX_HEADER_BYTES = 100 << 20
_SAMPLE_BYTES = 4096
_ITEM_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1, "F8_E4M3": 1}
_WEIGHT_DTYPES = ("BF16", "F32")
_NUMERIC_FIELDS = tuple(name for name in ModelConfig.__slots__ if name not in ("bos_token_id", "eos_token_id", "torch_dtype"))


@dataclass(frozen=True, slots=True)
class Stored:
    """Where one tensor lies: its file, dtype name, shape and absolute byte range."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True, slots=True)
class ExpertWeights:
    """One FFN expert. Legend: D hidden, F inner width; gate rows come first."""

    gate_up_2FD: Tensor
    down_DF: Tensor


class Checkpoint:
    """An opened, checked directory. `open` raises CheckpointError: one line naming file and tensor."""

    def __init__(self, path: Path, config: ModelConfig, stored: dict[str, Stored]) -> None:
        self.path = path
        self.config = config
        self._stored = stored
        self._open: dict[Path, Any] = {}
        self.digest = _digest(config, stored)

    @classmethod
    def open(cls, path: Path) -> Checkpoint:
        config = ModelConfig.from_dict(_json_object(path / "config.json"))
        stored = {name: where for file in _shards(path) for name, where in _header(file)}
        _check_index(path, stored)
        for name, shape in (attention_shapes(config) | expert_shapes(config)).items():
            _check_tensor(path, stored, name, shape)
        return cls(path, config, stored)

    def names(self) -> list[str]:
        return sorted(self._stored)

    def attention_tensors(self) -> int:
        """How many tensors an attention worker reads."""
        return len(attention_shapes(self.config))

    def tensor(self, name: str, dtype: torch.dtype) -> Tensor:
        """One tensor in `dtype`, and not a byte of another. Raises CheckpointError when a value is NaN or infinite."""
        where = self._stored[name]
        try:
            if where.file not in self._open:
                self._open[where.file] = safe_open(where.file, "pt")
            tensor: Tensor = self._open[where.file].get_tensor(name)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{where.file.name}: {name}: {error}") from None
        if not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(f"{where.file.name}: {name}: holds NaN or infinite values")
        return tensor.to(dtype)


def load_expert(checkpoint: Checkpoint, layer: int, expert: int, dtype: torch.dtype) -> ExpertWeights:
    """One expert's weights. Raises CheckpointError."""
    prefix = f"model.layers.{layer}.mlp.experts.{expert}."
    gate, up, down = (checkpoint.tensor(f"{prefix}{part}_proj.weight", dtype) for part in ("gate", "up", "down"))
    return ExpertWeights(torch.cat([gate, up]), down)


def numerics_class(checkpoint: Checkpoint, dtype: torch.dtype) -> str:
    """Equal on two workers exactly when their answers are interchangeable bit for bit."""
    parts = "\n".join([available(), probe(dtype), str(dtype), checkpoint.digest])
    return "caracal-" + hashlib.sha256(parts.encode()).hexdigest()[:16]


def attention_shapes(c: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Every tensor of an attention worker and its shape, in Hugging Face's [out, in] order."""
    heads, hidden = c.num_attention_heads, c.hidden_size
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (c.vocab_size, hidden),
        "model.norm.weight": (hidden,),
        "lm_head.weight": (c.vocab_size, hidden),
    }
    for layer in range(c.num_layers):
        prefix = f"model.layers.{layer}."
        shapes[f"{prefix}mlp.router.classifier.weight"] = (c.num_gate_outputs, hidden)
        shapes[f"{prefix}mlp.router.e_score_correction_bias"] = (c.num_gate_outputs,)
        for i in (0, 1):
            attention = f"{prefix}self_attn.{i}."
            shapes |= {
                f"{prefix}input_layernorm.{i}.weight": (hidden,),
                f"{prefix}post_attention_layernorm.{i}.weight": (hidden,),
                f"{attention}q_a_proj.weight": (c.q_lora_rank, hidden),
                f"{attention}q_a_layernorm.weight": (c.q_lora_rank,),
                f"{attention}q_b_proj.weight": (heads * (c.qk_nope_head_dim + c.qk_rope_head_dim), c.q_lora_rank),
                f"{attention}kv_a_proj_with_mqa.weight": (c.latent, hidden),
                f"{attention}kv_a_layernorm.weight": (c.kv_lora_rank,),
                f"{attention}kv_b_proj.weight": (heads * (c.qk_nope_head_dim + c.v_head_dim), c.kv_lora_rank),
                f"{attention}o_proj.weight": (hidden, heads * c.v_head_dim),
                f"{prefix}mlps.{i}.gate_proj.weight": (c.ffn_hidden_size, hidden),
                f"{prefix}mlps.{i}.up_proj.weight": (c.ffn_hidden_size, hidden),
                f"{prefix}mlps.{i}.down_proj.weight": (hidden, c.ffn_hidden_size),
            }
    return shapes


def expert_shapes(c: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Every tensor of the FFN experts and its shape."""
    inner, hidden = c.expert_ffn_hidden_size, c.hidden_size
    parts = {"gate": (inner, hidden), "up": (inner, hidden), "down": (hidden, inner)}
    return {
        f"model.layers.{layer}.mlp.experts.{expert}.{part}_proj.weight": shape
        for layer in range(c.num_layers)
        for expert in range(c.n_routed_experts)
        for part, shape in parts.items()
    }


@contextmanager
def _reading(file: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CheckpointError(f"{file.name}: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{file.name}: is not valid JSON: {error}") from None


def _json_object(file: Path) -> dict[str, Any]:
    with _reading(file):
        value = json.loads(file.read_bytes())
    if not isinstance(value, dict):
        raise CheckpointError(f"{file.name}: is not a JSON object")
    return value


def _weight_map(path: Path) -> dict[str, str]:
    weight_map = _json_object(path / INDEX).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(shard, str) for shard in weight_map.values()):
        raise CheckpointError(f"{INDEX}: weight_map: is not a map from tensor to file")
    return weight_map


def _shards(path: Path) -> list[Path]:
    if (path / INDEX).exists():
        names = sorted(set(_weight_map(path).values()))
        if bad := [name for name in names if Path(name).name != name]:
            raise CheckpointError(f"{INDEX}: weight_map: {bad[0]!r} is not a file name")
        return [path / name for name in names]
    if (path / "model.safetensors").exists():
        return [path / "model.safetensors"]
    pickled = sorted(file.name for suffix in ("bin", "pt", "pth") for file in path.glob(f"*.{suffix}"))
    if pickled:
        raise CheckpointError(f"{pickled[0]}: pickled weights are never read; convert them to safetensors")
    raise CheckpointError(f"{INDEX}: missing, and there is no model.safetensors either")


def _header(file: Path) -> list[tuple[str, Stored]]:
    with _reading(file):
        size = file.stat().st_size
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if size < 8 or length > min(MAX_HEADER_BYTES, size - 8):
                raise CheckpointError(f"{file.name}: truncated: {size} bytes cannot hold its header")
            entries = json.loads(stream.read(length))
    if not isinstance(entries, dict):
        raise CheckpointError(f"{file.name}: the safetensors header is not a JSON object")
    entries.pop("__metadata__", None)
    return [(name, _entry(file, name, entry, 8 + length, size)) for name, entry in entries.items()]


def _entry(file: Path, name: str, entry: Any, base: int, size: int) -> Stored:
    try:
        dtype, shape, (begin, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
        whole = all(type(n) is int and n >= 0 for n in (*shape, begin, end))
        wanted = math.prod(shape) * _ITEM_BYTES.get(dtype, 0)
    except (TypeError, KeyError, ValueError):
        raise CheckpointError(f"{file.name}: {name}: malformed header entry") from None
    if not whole or end < begin:
        raise CheckpointError(f"{file.name}: {name}: malformed header entry")
    if base + end > size:
        raise CheckpointError(f"{file.name}: {name}: truncated: ends at byte {base + end}, the file has {size}")
    if dtype in _ITEM_BYTES and wanted != end - begin:
        raise CheckpointError(f"{file.name}: {name}: {list(shape)} of {dtype} is not {end - begin} bytes")
    return Stored(file, str(dtype), shape, base + begin, base + end)


def _check_index(path: Path, stored: dict[str, Stored]) -> None:
    if not (path / INDEX).exists():
        return
    for name, shard in _weight_map(path).items():
        if name not in stored or stored[name].file.name != shard:
            raise CheckpointError(f"{shard}: {name}: named by the index, not in the file")


def _check_tensor(path: Path, stored: dict[str, Stored], name: str, shape: tuple[int, ...]) -> None:
    if name not in stored:
        raise CheckpointError(f"{path.name or path}: {name}: missing in every file")
    where = stored[name]
    if where.shape != shape:
        raise CheckpointError(f"{where.file.name}: {name}: shape {list(where.shape)}, config.json makes it {list(shape)}")
    if where.dtype not in _WEIGHT_DTYPES:
        raise CheckpointError(f"{where.file.name}: {name}: dtype {where.dtype}, only {' and '.join(_WEIGHT_DTYPES)} are read")


def _digest(config: ModelConfig, stored: dict[str, Stored]) -> str:
    """SHA-256 over numeric config fields, headers, and each tensor's first and last 4 KiB: cheap for terabytes, blind to a
    flipped bit in the middle of a tensor (golden vectors of loaded experts look there)."""
    digest = hashlib.sha256(repr([(name, getattr(config, name)) for name in _NUMERIC_FIELDS]).encode())
    streams = {where.file: where.file.open("rb") for where in stored.values()}
    try:
        for name, where in sorted(stored.items()):
            digest.update(f"{name} {where.dtype} {where.shape}".encode())
            for begin in (where.begin, max(where.begin, where.end - _SAMPLE_BYTES)):
                streams[where.file].seek(begin)
                digest.update(streams[where.file].read(min(_SAMPLE_BYTES, where.end - begin)))
    finally:
        for stream in streams.values():
            stream.close()
    return digest.hexdigest()
