"""A checkpoint that thinks, then answers, whatever the prompt: one layer whose next token depends on the last alone.

Embeddings are one-hot and all other weights zero, so the output head is a table of successors.
"""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from compat.features import THOUGHT, THOUGHT_ANSWER
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor

from services.checkpoint.config import ModelConfig
from services.checkpoint.tensors import attention_tensors, expert_tensors

SPECIAL = ["<longcat_unk>", "<longcat_s>", "</longcat_s>", "<longcat_pad>", "<longcat_assistant>"]
TEMPLATE = (
    "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<longcat_assistant>"
    "{% if enable_thinking is defined and not enable_thinking %}</longcat_think>{% endif %}{% endif %}"
)


def _script() -> list[str]:
    """The pieces of the answer in order, each of them once."""
    words = [word if place == 0 else " " + word for place, word in enumerate(THOUGHT.split(" "))]
    first, second = THOUGHT_ANSWER.split("-")
    return ["<longcat_think>", *words, "</longcat_think>", first, "-", second]


def _config(vocabulary: int) -> dict[str, Any]:
    return {
        "architectures": ["LongcatFlashForCausalLM"], "model_type": "longcat_flash", "vocab_size": vocabulary,
        "hidden_size": vocabulary + (-vocabulary) % 8, "num_layers": 1, "num_hidden_layers": 2,
        "num_attention_heads": 4, "ffn_hidden_size": 16, "q_lora_rank": 16, "kv_lora_rank": 16,
        "qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 8, "moe_topk": 2, "n_routed_experts": 4,
        "zero_expert_num": 0, "zero_expert_type": "drop", "expert_ffn_hidden_size": 16, "routed_scaling_factor": 1.0,
        "max_position_embeddings": 4096, "rope_theta": 10000.0, "rms_norm_eps": 1e-5, "bos_token_id": 1,
        "eos_token_id": 2, "torch_dtype": "float32", "tie_word_embeddings": False,
    }  # fmt: skip


def _tokenizer() -> tuple[Tokenizer, list[int]]:
    """The tokenizer, and the ids of what is said, from the mark that opens an answer to the end of a sequence."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    script = _script()
    said = [piece.replace(" ", "Ġ") for piece in script]  # as byte-level vocabularies spell a space
    marks = [piece for piece in script if piece.startswith("<")]
    vocabulary: dict[str, int] = {}
    for token in [*SPECIAL, *alphabet, *said]:
        vocabulary.setdefault(token, len(vocabulary))
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token=SPECIAL[0]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(SPECIAL)
    tokenizer.add_tokens(marks)
    return tokenizer, [vocabulary[token] for token in (SPECIAL[4], *said, SPECIAL[2])]


def _weights(raw: dict[str, Any], ids: list[int]) -> dict[str, Tensor]:
    config, size = ModelConfig.from_dict(raw), raw["vocab_size"]
    names = [*attention_tensors(config), *expert_tensors(config)]
    weights = {name: torch.ones(shape) if "norm" in name else torch.zeros(shape) for name, shape in names}
    weights["model.embed_tokens.weight"][range(size), range(size)] = 1.0
    for token, following in pairwise(ids):
        weights["lm_head.weight"][following, token] = 8.0  # far above all others, so that sampling follows it too
    return weights


def make_thinking_checkpoint(path: Path) -> Path:
    """Writes the checkpoint into the folder `path`, which it makes; returns `path`."""
    path.mkdir(parents=True)
    tokenizer, ids = _tokenizer()
    tokenizer.save(str(path / "tokenizer.json"))
    raw = _config(tokenizer.get_vocab_size())
    (path / "config.json").write_text(json.dumps(raw))
    names = {"bos_token": SPECIAL[1], "eos_token": SPECIAL[2], "chat_template": TEMPLATE}
    (path / "tokenizer_config.json").write_text(json.dumps(names))
    save_file(_weights(raw, ids), path / "model.safetensors", metadata={"format": "pt"})
    return path
