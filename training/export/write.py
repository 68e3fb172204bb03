"""Writes trained weights as a Hugging Face directory, tensor names and files as LongCat-Flash publishes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor

from training.data.tokenizer import BOS, EOS, FRAME, PAD
from training.export.read import MTP, read_tensors, trunk_of
from training.model.config import SERVED, ModelConfig
from training.model.longcat_flash import LongcatFlash
from training.mtp.head import MtpHead

SHARD_BYTES = 2_000_000  # small, so that the tiny checkpoint has several shards
TEMPLATE = Path(__file__).parents[1] / "data" / "chat_template.jinja"


def export(model: LongcatFlash, tokenizer: Tokenizer, folder: Path) -> None:
    """Replaces the checkpoint in `folder`.

    Raises ValueError when a weight is not finite, or the model is a variant that no server computes.
    """
    if model.architecture != SERVED:
        raise ValueError(f"not exported: no server computes {model.architecture}")
    folder.mkdir(parents=True, exist_ok=True)
    _write_weights(checkpoint_tensors(model), folder)
    _write_json(folder / "config.json", config_json(model.config))
    _write_json(folder / "generation_config.json", {"bos_token_id": BOS, "eos_token_id": EOS, "pad_token_id": PAD})
    _write_json(folder / "tokenizer_config.json", tokenizer_config(model.config))
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "chat_template.jinja").write_text(TEMPLATE.read_text(encoding="utf-8"), encoding="utf-8")


def export_head(head: MtpHead, folder: Path) -> None:
    """Adds the MTP module to the checkpoint in `folder`, or replaces the one there; the trunk keeps its bits.

    The embedding is stored a second time, as published checkpoints have it. Raises ValueError when a weight is not
    finite.
    """
    tensors = trunk_of(read_tensors(folder))
    own = {MTP + name: _stored(MTP + name, value) for name, value in head.state_dict().items()}
    own[f"{MTP}embed_tokens.weight"] = tensors["model.embed_tokens.weight"].clone()
    _write_weights(dict(sorted((tensors | own).items())), folder)
    _write_json(folder / "config.json", config_json(head.config, mtp_layers=1))


def checkpoint_tensors(model: LongcatFlash) -> dict[str, Tensor]:
    """Returns tensors under the published names, one per expert and projection: bf16, except for the fp32 routers."""
    tensors: dict[str, Tensor] = {}
    for name, value in model.state_dict().items():
        full = name if name.startswith("lm_head") else f"model.{name}"
        if name.endswith("gate_up_E2FD"):
            for expert, both in enumerate(value):
                gate, up = both.chunk(2)
                stem = f"{full.removesuffix('gate_up_E2FD')}{expert}"
                tensors |= {f"{stem}.gate_proj.weight": gate, f"{stem}.up_proj.weight": up}
        elif name.endswith("down_EDF"):
            stem = full.removesuffix("down_EDF")
            tensors |= {f"{stem}{expert}.down_proj.weight": down for expert, down in enumerate(value)}
        else:
            tensors[full] = value
    return {name: _stored(name, value) for name, value in sorted(tensors.items())}


def _stored(name: str, value: Tensor) -> Tensor:
    """The tensor as it is stored. Raises ValueError when it is not finite."""
    if not value.isfinite().all():
        raise ValueError(f"{name}: not finite")
    dtype = torch.float32 if ".mlp.router." in name else torch.bfloat16
    return value.detach().to(dtype).clone().contiguous()


def _write_weights(tensors: dict[str, Tensor], folder: Path) -> None:
    shards: list[dict[str, Tensor]] = [{}]
    free = SHARD_BYTES
    for name, value in tensors.items():
        if free < value.nbytes:
            shards.append({})
            free = SHARD_BYTES
        shards[-1][name] = value
        free -= value.nbytes
    where: dict[str, str] = {}
    written: dict[Path, Path] = {}
    for number, shard in enumerate(shards, 1):
        file = f"model-{number:05}-of-{len(shards):05}.safetensors"
        partial = folder / f"{file}.partial"
        save_file(shard, partial, {"format": "pt"})
        partial.chmod(0o644)  # save_file makes it readable for the owner only
        written[partial] = folder / file
        where |= dict.fromkeys(shard, file)
    for old in set(folder.glob("*.safetensors")) - set(written.values()):
        old.unlink()
    for partial, whole in written.items():
        partial.rename(whole)
    total = sum(value.nbytes for value in tensors.values())
    _write_json(folder / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": where})


def config_json(config: ModelConfig, mtp_layers: int = 0) -> dict[str, Any]:
    """Returns config.json, with every field that readers of this architecture use."""
    drafts = {"num_nextn_predict_layers": mtp_layers} if mtp_layers else {}
    return {
        "architectures": ["LongcatFlashForCausalLM"],
        "model_type": "longcat_flash",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "attention_method": "MLA",
        "bos_token_id": BOS,
        "eos_token_id": EOS,
        "pad_token_id": PAD,
        "expert_ffn_hidden_size": config.expert_ffn_hidden_size,
        "ffn_hidden_size": config.ffn_hidden_size,
        "head_dim": config.qk_rope_head_dim,  # transformers sizes its rotary table by it
        "hidden_act": "silu",
        "hidden_size": config.hidden_size,
        "kv_lora_rank": config.kv_lora_rank,
        "max_position_embeddings": config.max_position_embeddings,
        "mla_scale_kv_lora": True,
        "mla_scale_q_lora": True,
        "moe_topk": config.moe_topk,
        "n_routed_experts": config.n_routed_experts,
        "norm_topk_prob": False,
        "num_attention_heads": config.num_attention_heads,
        "num_hidden_layers": 2 * config.num_layers,
        "num_layers": config.num_layers,
        **drafts,
        "q_lora_rank": config.q_lora_rank,
        "qk_nope_head_dim": config.qk_nope_head_dim,
        "qk_rope_head_dim": config.qk_rope_head_dim,
        "rms_norm_eps": config.rms_norm_eps,
        "rope_theta": config.rope_theta,
        "routed_scaling_factor": config.routed_scaling_factor,
        "router_bias": False,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "v_head_dim": config.v_head_dim,
        "vocab_size": config.vocab_size,
        "zero_expert_num": config.zero_expert_num,
        "zero_expert_type": "identity",
    }


def tokenizer_config(config: ModelConfig) -> dict[str, Any]:
    """Returns tokenizer_config.json, without bos before a prompt, as in training."""
    unk, bos, eos, pad = FRAME
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_bos_token": False,
        "add_eos_token": False,
        "bos_token": bos,
        "eos_token": eos,
        "pad_token": pad,
        "unk_token": unk,
        "clean_up_tokenization_spaces": False,
        "model_max_length": config.max_position_embeddings,
        "chat_template": TEMPLATE.read_text(encoding="utf-8"),
    }


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
