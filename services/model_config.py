"""A LongCat-Flash config.json, checked: a contradiction is refused here, in words, before anything is read."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any


class CheckpointError(ValueError):
    """A model directory that cannot be served. One line: file, tensor or field, what is wrong."""


def _refuse(field: str, why: str) -> CheckpointError:
    return CheckpointError(f"config.json: {field}: {why}")


# Accepted only with these values; the arithmetic of others is not written.
_ONLY: dict[str, tuple[Any, ...]] = {
    "model_type": ("longcat_flash",),
    "hidden_act": ("silu", None),
    "attention_method": ("MLA", None),
    "attention_bias": (False, None),
    "router_bias": (False, None),
    "tie_word_embeddings": (False, None),
    "rope_scaling": (None,),
    "auto_map": (None,),
    "quantization_config": (None,),
}
_WHY = {
    "auto_map": "code in a model directory is never run; remove the field",
    "quantization_config": "quantised checkpoints are not supported yet",
    "rope_scaling": "only the default rope is supported",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """Sizes and constants, under the names config.json gives them."""

    num_layers: int
    hidden_size: int
    num_attention_heads: int
    q_lora_rank: int
    kv_lora_rank: int
    qk_nope_head_dim: int
    qk_rope_head_dim: int
    v_head_dim: int
    ffn_hidden_size: int
    expert_ffn_hidden_size: int
    n_routed_experts: int
    moe_topk: int
    max_position_embeddings: int
    vocab_size: int
    zero_expert_num: int = 0
    zero_expert_type: str = "identity"
    routed_scaling_factor: float = 1.0
    norm_topk_prob: bool = False
    rms_norm_eps: float = 1e-5
    rope_theta: float = 1e7
    bos_token_id: int = 1
    eos_token_id: int | tuple[int, ...] = 2
    torch_dtype: str = "bfloat16"

    @property
    def num_gate_outputs(self) -> int:
        return self.n_routed_experts + self.zero_expert_num

    @property
    def latent(self) -> int:
        """Values cached per token and attention sublayer."""
        return self.kv_lora_rank + self.qk_rope_head_dim

    @property
    def q_scale(self) -> float:
        return math.sqrt(self.hidden_size / self.q_lora_rank)

    @property
    def kv_scale(self) -> float:
        return math.sqrt(self.hidden_size / self.kv_lora_rank)

    @property
    def eos_ids(self) -> frozenset[int]:
        eos = self.eos_token_id
        return frozenset(eos if isinstance(eos, tuple) else (eos,))

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> ModelConfig:
        """The config of a parsed config.json. Raises CheckpointError naming the field."""
        for name, allowed in _ONLY.items():
            value = raw.get(name)
            if value not in allowed:
                default = f"{value!r} is not supported, only {allowed[0]!r}"
                raise _refuse(name, _WHY.get(name, default))
        values = dict(raw)
        if isinstance(rope := raw.get("rope_parameters"), Mapping):
            if rope.get("rope_type", "default") != "default":
                raise _refuse("rope_parameters", _WHY["rope_scaling"])
            values.setdefault("rope_theta", rope.get("rope_theta"))
        if "torch_dtype" not in values and "dtype" in values:
            values["torch_dtype"] = values["dtype"]
        if isinstance(values.get("eos_token_id"), list):
            values["eos_token_id"] = tuple(values["eos_token_id"])
        config = cls(**{field.name: _typed(field.name, values) for field in fields(cls) if _given(field.name, values)})
        config._check(raw)
        return config

    def _check(self, raw: Mapping[str, Any]) -> None:
        experts = self.num_gate_outputs
        caches = raw.get("num_hidden_layers", 2 * self.num_layers)
        key = self.qk_nope_head_dim + self.qk_rope_head_dim
        checks = (
            ("moe_topk", self.moe_topk <= experts, f"{self.moe_topk} of {experts} experts cannot be chosen"),
            ("qk_rope_head_dim", self.qk_rope_head_dim % 2 == 0, f"{self.qk_rope_head_dim} is odd"),
            (
                "num_hidden_layers",
                caches in (2 * self.num_layers, self.num_layers),
                f"{caches} contradicts num_layers {self.num_layers}: it counts two attentions per layer",
            ),
            ("qk_head_dim", raw.get("qk_head_dim", key) == key, f"is not qk_nope_head_dim + qk_rope_head_dim = {key}"),
            ("zero_expert_type", self.zero_expert_type in ("identity", "drop"), f"{self.zero_expert_type!r} is unknown"),
            ("torch_dtype", self.torch_dtype in ("bfloat16", "float32"), f"{self.torch_dtype!r}: bfloat16 or float32"),
            (
                "eos_token_id",
                all(0 <= eos < self.vocab_size for eos in self.eos_ids),
                f"{self.eos_token_id} lies outside the vocabulary of {self.vocab_size}",
            ),
        )
        for field, holds, why in checks:
            if not holds:
                raise _refuse(field, why)


_MAY_BE_ZERO = {"zero_expert_num", "bos_token_id"}
_FIELDS = {field.name: field for field in fields(ModelConfig)}


def _given(name: str, values: Mapping[str, Any]) -> bool:
    if values.get(name) is not None:
        return True
    if _FIELDS[name].default is _FIELDS["num_layers"].default:
        raise _refuse(name, "is missing")
    return False


def _typed(name: str, values: Mapping[str, Any]) -> Any:
    value, kind = values[name], str(_FIELDS[name].type)
    if kind == "float":
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value <= 0:
            raise _refuse(name, f"{value!r} is not a positive number")
        return float(value)
    if kind == "int":
        least = 0 if name in _MAY_BE_ZERO else 1
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise _refuse(name, f"{value!r} is not a whole number of at least {least}")
    if kind == "bool" and not isinstance(value, bool):
        raise _refuse(name, f"{value!r} is not true or false")
    if kind == "str" and not isinstance(value, str):
        raise _refuse(name, f"{value!r} is not a string")
    if name == "eos_token_id" and not all(type(eos) is int for eos in (value if isinstance(value, tuple) else [value])):
        raise _refuse(name, f"{value!r} is not a token id or a list of them")
    return value
