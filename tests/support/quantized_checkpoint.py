"""Converts a checkpoint to the block-scaled fp8 format that LongCat-Flash ships in.

Legend: N outputs, K inputs, n blocks of outputs, k blocks of inputs.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from support.tiny_checkpoint import PLAIN
from torch import Tensor

from services.checkpoint.fp8 import SCALE_SUFFIX, scale_shape
from services.checkpoint.quantization import BLOCK
from services.checkpoint.safetensors import INDEX

CONFIG = {
    "quant_method": "fp8",
    "fmt": "e4m3",
    "activation_scheme": "dynamic",
    "weight_block_size": [BLOCK, BLOCK],
}
# Of blocks of 64 x 128, which the compiled CPU kernels keep in fp8, but for down_proj of the dense MLPs. kv_a_proj and
# gate_proj have 192 rows: a block and half of one.
BLOCKS: dict[str, Any] = PLAIN | {
    "hidden_size": 128,
    "num_attention_heads": 2,
    "ffn_hidden_size": 192,
    "q_lora_rank": 128,
    "kv_lora_rank": 128,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "head_dim": 64,
    "v_head_dim": 128,
    "expert_ffn_hidden_size": 128,
}
LINEARS = ("_proj.weight", "_proj_with_mqa.weight")


def is_linear(name: str) -> bool:
    return name.endswith(LINEARS)


def quantize(weight_NK: Tensor) -> tuple[Tensor, Tensor]:
    """Returns (e4m3 [N, K], fp32 scales [n, k]). The largest magnitude of each block becomes 448, the largest e4m3."""
    n, k = scale_shape(tuple(weight_NK.shape))
    padded = torch.zeros((n * BLOCK, k * BLOCK))
    padded[: weight_NK.shape[0], : weight_NK.shape[1]] = weight_NK
    blocks = padded.view(n, BLOCK, k, BLOCK)
    largest_nk = blocks.abs().amax((1, 3))
    scale_nk = torch.where(largest_nk > 0, largest_nk / torch.finfo(torch.float8_e4m3fn).max, 1.0)
    stored = (blocks / scale_nk[:, None, :, None]).to(torch.float8_e4m3fn).view_as(padded)
    return stored[: weight_NK.shape[0], : weight_NK.shape[1]].contiguous(), scale_nk


def to_fp8(path: Path, which: Callable[[str], bool] = is_linear, config: dict[str, Any] | None = None) -> Path:
    """Rewrites the tensors that `which` selects in fp8, each with its scales; returns `path`."""
    raw = json.loads((path / "config.json").read_text())
    raw |= {"quantization_config": CONFIG} if config is None else config
    (path / "config.json").write_text(json.dumps(raw))
    index = json.loads((path / INDEX).read_text())
    for shard in sorted(set(index["weight_map"].values())):
        tensors = load_file(path / shard)
        for name in [name for name in tensors if which(name)]:
            tensors[name], tensors[name + SCALE_SUFFIX] = quantize(tensors[name])
            index["weight_map"][name + SCALE_SUFFIX] = shard
        save_file(tensors, path / shard)
    (path / INDEX).write_text(json.dumps(index))
    return path


def widened(fp8: Path, path: Path) -> Path:
    """Writes the same model without fp8: every value times its scale, in fp64, rounded to bfloat16. Returns `path`."""
    path.mkdir()
    raw = json.loads((fp8 / "config.json").read_text())
    raw.pop("quantization_config")
    raw.pop("disable_quant_module", None)
    (path / "config.json").write_text(json.dumps(raw))
    index = json.loads((fp8 / INDEX).read_text())
    for shard in sorted(set(index["weight_map"].values())):
        tensors = load_file(fp8 / shard)
        for name in [name for name in tensors if name.endswith(SCALE_SUFFIX)]:
            weight_NK = tensors[name.removesuffix(SCALE_SUFFIX)].double()
            rows, columns = (torch.arange(size) // BLOCK for size in weight_NK.shape)
            scaled_NK = weight_NK * tensors.pop(name).double()[rows][:, columns]
            tensors[name.removesuffix(SCALE_SUFFIX)] = scaled_NK.float().bfloat16()
            del index["weight_map"][name]
        save_file(tensors, path / shard)
    (path / INDEX).write_text(json.dumps(index))
    return path
