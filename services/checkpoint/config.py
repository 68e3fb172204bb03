"""The config.json of a LongCat-Flash model; contradictions are reported before any weight is read."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any


class CheckpointError(ValueError):
    """A model directory that cannot be served. The message is one line: file, tensor or field, and what is wrong."""


def _bad_field(field: str, why: str) -> CheckpointError:
    return CheckpointError(f"config.json: {field}: {why}")


# Only these values (or null) are implemented.
_ONLY: dict[str, tuple[Any, ...]] = {
    "model_type": ("longcat_flash",),
    "hidden_act": ("silu", None),
    "attention_method": ("MLA", None),
    "attention_bias": (False, None),
    "router_bias": (False, None),
    "tie_word_embeddings": (False, None),
    "auto_map": (None,),
    "ngram_vocab_size_ratio": (None,),
    "index_topk": (None,),
}
_WHY = {
    "auto_map": "code in a model directory is never run; remove the field",
    "ngram_vocab_size_ratio": "n-gram embeddings are not supported",
    "index_topk": "sparse attention is not supported",
}
_LARGEST = 2**31 - 1  # positions and ids are int32


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """Sizes and constants of a model, under the names that config.json gives them.

    `mla_scale_q_lora` and `mla_scale_kv_lora` are not read: both latents are always scaled, as transformers does.
    """

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
        """Values in the KV cache per token and attention sublayer."""
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
        """Checks a parsed config.json. Raises CheckpointError naming the field."""
        for name, allowed in _ONLY.items():
            value = raw.get(name)
            if value not in allowed:
                raise _bad_field(name, _WHY.get(name, f"{value!r} is not supported, only {allowed[0]!r}"))
        values = {**raw, "rope_theta": _rope_theta(raw), "torch_dtype": raw.get("torch_dtype") or raw.get("dtype")}
        if isinstance(values.get("eos_token_id"), list):
            values["eos_token_id"] = tuple(values["eos_token_id"])
        config = cls(**{field.name: _typed(field.name, values) for field in fields(cls) if _given(field.name, values)})
        for field, holds, why in _consistency(config, raw):
            if not holds:
                raise _bad_field(field, why)
        return config


def _consistency(c: ModelConfig, raw: Mapping[str, Any]) -> Iterator[tuple[str, bool, str]]:
    """Yields (field, whether it agrees with the other fields, what is wrong if not)."""
    yield "moe_topk", c.moe_topk <= c.num_gate_outputs, f"{c.moe_topk} of {c.num_gate_outputs} experts cannot be chosen"
    yield "qk_rope_head_dim", c.qk_rope_head_dim % 2 == 0, f"{c.qk_rope_head_dim} is odd"
    caches = 2 * c.num_layers
    why = f"contradicts num_layers {c.num_layers}: it counts attention sublayers, so it must be {caches}"
    yield "num_hidden_layers", raw.get("num_hidden_layers") in (None, caches), why
    heads = c.num_attention_heads
    yield (
        "num_key_value_heads",
        raw.get("num_key_value_heads") in (None, heads),
        f"is not num_attention_heads = {heads}",
    )
    key = c.qk_nope_head_dim + c.qk_rope_head_dim
    yield "qk_head_dim", raw.get("qk_head_dim") in (None, key), f"is not qk_nope_head_dim + qk_rope_head_dim = {key}"
    yield "zero_expert_type", c.zero_expert_type in ("identity", "drop"), f"{c.zero_expert_type!r}: identity or drop"
    yield "torch_dtype", c.torch_dtype in ("bfloat16", "float32"), f"{c.torch_dtype!r}: bfloat16 or float32"
    inside = all(0 <= eos < c.vocab_size for eos in c.eos_ids)
    yield "eos_token_id", inside, f"{c.eos_token_id} lies outside the vocabulary of {c.vocab_size}"
    yield (
        "bos_token_id",
        c.bos_token_id < c.vocab_size,
        f"{c.bos_token_id} lies outside the vocabulary of {c.vocab_size}",
    )


def _rope_theta(raw: Mapping[str, Any]) -> Any:
    """Finds rope_theta: at the top level in older files, in `rope_parameters` in newer ones. Rejects RoPE scaling."""
    found = raw.get("rope_theta")
    for name in ("rope_parameters", "rope_scaling"):
        rope = raw.get(name)
        if rope is None:
            continue
        if not isinstance(rope, Mapping) or rope.get("rope_type", rope.get("type", "default")) != "default":
            raise _bad_field(name, "only the default rope is supported")
        theta = rope.get("rope_theta")
        if None not in (found, theta) and found != theta:
            raise _bad_field(name, f"rope_theta {theta!r} contradicts {found!r}")
        found = theta if found is None else found
    return found


_MAY_BE_ZERO = {"zero_expert_num", "bos_token_id"}
_FIELDS = {field.name: field for field in fields(ModelConfig)}


def _given(name: str, values: Mapping[str, Any]) -> bool:
    if values.get(name) is not None:
        return True
    if _FIELDS[name].default is MISSING:
        raise _bad_field(name, "is missing")
    return False


def _typed(name: str, values: Mapping[str, Any]) -> Any:
    value, kind = values[name], str(_FIELDS[name].type)
    if kind == "float":
        # Compared before it is converted: float() overflows on an integer of 400 digits.
        if type(value) not in (int, float) or not 0 < value < 1e30:
            raise _bad_field(name, f"{value!r} is not a positive number")
        return float(value)
    if kind == "int":
        least = 0 if name in _MAY_BE_ZERO else 1
        if type(value) is not int or not least <= value <= _LARGEST:
            raise _bad_field(name, f"{value!r} is not a whole number of at least {least}")
    if kind == "bool" and not isinstance(value, bool):
        raise _bad_field(name, f"{value!r} is not true or false")
    if kind == "str" and not isinstance(value, str):
        raise _bad_field(name, f"{value!r} is not a string")
    if name == "eos_token_id":
        ids = value if isinstance(value, tuple) else (value,)
        if not ids or not all(type(eos) is int for eos in ids):
            raise _bad_field(name, f"{value!r} is not a token id or a list of them")
    return value
