"""Checks the stored tensors against config.json: each is there, of its shape and dtype, and none is left unread."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from services.checkpoint.config import ModelConfig
from services.checkpoint.errors import CheckpointError
from services.checkpoint.fp8 import FP8_NAME, SCALE_SUFFIX, scale_shape
from services.checkpoint.quantization import Quantization
from services.checkpoint.safetensors import INDEX, SINGLE, Stored, bad_tensor
from services.checkpoint.tensors import (
    DRAFT_LAYER,
    OWN_HEAD,
    UNREAD,
    NamedShape,
    attention_tensors,
    draft_tensors,
    expert_tensors,
    fused_experts,
    head_name,
    ngram_tables,
)

UNQUANTIZED = ("BF16", "F32")


def check_tensors(
    path: Path, config: ModelConfig, quantization: Quantization | None, stored: dict[str, Stored]
) -> None:
    """Raises CheckpointError with the name of the file and the tensor."""
    read = set()
    for name, shape in _wanted(config, stored):
        read |= _check_whole(path, stored, name, shape, quantization)
    ignored = {OWN_HEAD} if config.tie_word_embeddings else set()
    for name, where in sorted(stored.items()):
        if name not in read and name not in ignored and not UNREAD.match(name):
            raise bad_tensor(where.file.name, name, "is not known: nothing reads it, and the model would lack its part")


def draft_violation(
    path: Path, config: ModelConfig, quantization: Quantization | None, stored: dict[str, Stored]
) -> str:
    """Why the tensors of multi-token prediction cannot be used, in words; empty when they can.

    Without them the model gives the same answers, so a checkpoint is not refused for them.
    """
    if not any(name.startswith(DRAFT_LAYER) for name in stored):
        return f"the checkpoint has no {DRAFT_LAYER}* tensors"
    try:
        for name, shape in draft_tensors(config):
            _check_whole(path, stored, name, shape, quantization)
    except CheckpointError as error:
        return str(error)
    return ""


def is_fused(config: ModelConfig, stored: dict[str, Stored], layer: int) -> bool:
    """Whether a layer's experts lie in two tensors instead of three for each."""
    return fused_experts(config, layer)[0][0] in stored


def _wanted(config: ModelConfig, stored: dict[str, Stored]) -> Iterator[NamedShape]:
    fused = {layer for layer in range(config.num_layers) if is_fused(config, stored, layer)}
    own = (each for each in expert_tensors(config) if not fused or _layer(each[0]) not in fused)
    yield from chain(attention_tensors(config), ngram_tables(config), own)
    for layer in fused:
        (gate_up, shape), down = fused_experts(config, layer)
        where = stored[gate_up]
        whole = (config.num_gate_outputs, *shape[1:])
        yield (gate_up, whole if where.shape == whole else shape)
        yield down


def _layer(name: str) -> int:
    return int(name.split(".")[2])


def _check_whole(
    path: Path, stored: dict[str, Stored], name: str, shape: tuple[int, ...], quantization: Quantization | None
) -> set[str]:
    """Checks a tensor, and its scales if it is in fp8; returns their names."""
    _check(path, stored, name, shape)
    if stored[name].dtype != FP8_NAME:
        return {name}
    _check_fp8(path, stored, name, quantization)
    return {name, name + SCALE_SUFFIX}


def _check(path: Path, stored: dict[str, Stored], name: str, shape: tuple[int, ...]) -> None:
    where = stored.get(name)
    if where is None:
        raise bad_tensor(INDEX if (path / INDEX).exists() else SINGLE, name, "is missing")
    if where.shape != shape:
        raise bad_tensor(where.file.name, name, f"shape {list(where.shape)}, config.json makes it {list(shape)}")
    if where.dtype not in (*UNQUANTIZED, FP8_NAME):
        known = f"only {' and '.join(UNQUANTIZED)}, matrices also {FP8_NAME}"
        raise bad_tensor(where.file.name, name, f"dtype {where.dtype} is not supported, {known}")


def _check_fp8(path: Path, stored: dict[str, Stored], name: str, quantization: Quantization | None) -> None:
    where = stored[name]
    if quantization is None:
        raise bad_tensor(where.file.name, name, f"is stored as {FP8_NAME}, and config.json has no quantization_config")
    if len(where.shape) != 2:
        raise bad_tensor(where.file.name, name, f"is stored as {FP8_NAME}, only matrices may be")
    if module := quantization.excluding_module(name):
        raise bad_tensor(where.file.name, name, f"is stored as {FP8_NAME}, and {module} is excluded from fp8")
    scale = name + SCALE_SUFFIX
    _check(path, stored, scale, scale_shape(where.shape))
    if stored[scale].dtype != "F32":
        raise bad_tensor(stored[scale].file.name, scale, f"dtype {stored[scale].dtype}, scales are F32")


def stored_dtype(config: ModelConfig, stored: dict[str, Stored]) -> str:
    """The name of the dtype that most weights are stored in but for fp8 ones: that of the output matrix."""
    return "float32" if stored[head_name(config)].dtype == "F32" else "bfloat16"
