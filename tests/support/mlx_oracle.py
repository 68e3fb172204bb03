"""mlx-lm's LongCat-Flash and Flash-Lite on a CPU in fp32: a second implementation that is not ours."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor

MODEL_TYPES = {
    "LongcatFlashForCausalLM": "longcat_flash",
    "LongcatFlashNgramForCausalLM": "longcat_flash_ngram",
}


def mlx_logits(path: Path, ids: list[int]) -> Tensor:
    """[T, V] of one sequence, with transformers' eps in the latents' norms.

    It knows no end of an n-gram context at an EOS, and no sparse attention.
    """
    import mlx.core as mx
    from mlx.utils import tree_map
    from mlx_lm.utils import load_model

    mx.set_default_device(mx.cpu)
    architecture = json.loads((path / "config.json").read_text())["architectures"][0]
    model, _ = load_model(path, model_config={"model_type": MODEL_TYPES[architecture]})
    for layer in model.model.layers:
        for attention in layer.self_attn:
            attention.q_a_layernorm.eps = attention.kv_a_layernorm.eps = 1e-6
    model.update(tree_map(lambda value: value.astype(mx.float32), model.parameters()))
    return torch.tensor(model(mx.array([ids]))[0].tolist())
