"""The config.json of a LongCat-Flash model; contradictions are reported before any weight is read."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any

from services.checkpoint.config_fields import ALIASES, check_fields
from services.checkpoint.errors import LEAST, MOST, bad_field, shown
from services.checkpoint.family import FLASH, NGRAM, architecture_of
from services.checkpoint.ngram import FIELDS as NGRAM_FIELDS
from services.checkpoint.ngram import NgramConfig, ngram_of
from services.checkpoint.rope import Rope, rope_of
from services.checkpoint.sparse import StreamingAttention, streaming_of

DEFAULT_EOS_ID = 2  # transformers' too
_LARGEST = 2**31 - 1  # positions and ids are int32
# A table has a row for each position; layers and experts are walked before any tensor is found to be missing.
_MOST = {
    "max_position_embeddings": 1 << 23,
    "num_layers": 1 << 12,
    "n_routed_experts": 1 << 16,
    "zero_expert_num": 1 << 16,
    "vocab_size": 1 << 24,
}
_COMPOSED = frozenset({"rope", "ngram", "streaming"})  # read from several fields, or from an object


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """Sizes and constants of a model, under the names that config.json gives them."""

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
    routed_scaling_factor: float
    zero_expert_num: int = 0
    zero_expert_type: str = "identity"
    norm_topk_prob: bool = False
    mla_scale_q_lora: bool = True
    mla_scale_kv_lora: bool = True
    rms_norm_eps: float = 1e-5
    tie_word_embeddings: bool = False
    bos_token_id: int = 1
    eos_token_id: int | tuple[int, ...] = DEFAULT_EOS_ID
    torch_dtype: str = ""  # empty: what the tensors are stored in
    rope: Rope = field(default_factory=Rope)
    ngram: NgramConfig | None = None
    streaming: StreamingAttention | None = None

    @property
    def num_gate_outputs(self) -> int:
        return self.n_routed_experts + self.zero_expert_num

    @property
    def latent(self) -> int:
        """Values in the KV cache per token and attention sublayer."""
        return self.kv_lora_rank + self.qk_rope_head_dim

    def latent_caches(self, drafts: bool) -> int:
        """How many attention sublayers have a KV cache: two per layer, and with `drafts` that of the draft."""
        return 2 * self.num_layers + drafts

    @property
    def q_scale(self) -> float:
        return math.sqrt(self.hidden_size / self.q_lora_rank) if self.mla_scale_q_lora else 1.0

    @property
    def kv_scale(self) -> float:
        return math.sqrt(self.hidden_size / self.kv_lora_rank) if self.mla_scale_kv_lora else 1.0

    @property
    def softmax_scale(self) -> float:
        yarn = self.rope.yarn
        plain = float((self.qk_nope_head_dim + self.qk_rope_head_dim) ** -0.5)
        return plain if yarn is None else plain * yarn.softmax_scale

    @property
    def eos_ids(self) -> frozenset[int]:
        eos = self.eos_token_id
        return frozenset(eos if isinstance(eos, tuple) else (eos,))

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> ModelConfig:
        """Checks a parsed config.json. Raises CheckpointError naming the field, or the part that is not served."""
        architecture = architecture_of(raw)
        check_fields(raw, frozenset(_FIELDS) - _COMPOSED)
        values = _with_other_names(raw)
        config = cls(**{name: _typed(name, values) for name in _FIELDS if _given(name, values)})
        for name, holds, why in _consistency(config, raw):
            if not holds:
                raise bad_field(name, why)
        return _composed(config, architecture, raw)


def _with_other_names(raw: Mapping[str, Any]) -> dict[str, Any]:
    values = dict(raw)
    for alias, name in ALIASES.items():
        if values.get(name) is None:
            values[name] = values.get(alias)
    values["torch_dtype"] = raw.get("torch_dtype") or raw.get("dtype")
    if isinstance(values.get("eos_token_id"), list):
        values["eos_token_id"] = tuple(values["eos_token_id"])
    return values


def _composed(config: ModelConfig, architecture: str, raw: Mapping[str, Any]) -> ModelConfig:
    """The config with what is read from several fields."""
    found: dict[str, Any] = {"rope": rope_of(raw), "streaming": streaming_of(raw, 2 * config.num_layers)}
    if architecture == NGRAM:
        found["ngram"] = ngram_of(raw, config.vocab_size, config.hidden_size, sorted(config.eos_ids))
    elif given := [name for name in NGRAM_FIELDS if raw.get(name) is not None]:
        raise bad_field(given[0], f"{FLASH} has no n-gram embedding, {NGRAM} has one")
    own = {name: getattr(config, name) for name in _FIELDS}
    return ModelConfig(**own | found)


def _consistency(c: ModelConfig, raw: Mapping[str, Any]) -> Iterator[tuple[str, bool, str]]:
    """Yields (field, whether it agrees with the other fields, what is wrong if not)."""
    yield "moe_topk", c.moe_topk <= c.num_gate_outputs, f"{c.moe_topk} of {c.num_gate_outputs} experts cannot be chosen"
    yield "qk_rope_head_dim", c.qk_rope_head_dim % 2 == 0, f"{c.qk_rope_head_dim} is odd"
    caches = 2 * c.num_layers
    why = f"contradicts num_layers {c.num_layers}: it counts layers or attention sublayers, {c.num_layers} or {caches}"
    yield "num_hidden_layers", raw.get("num_hidden_layers") in (None, c.num_layers, caches), why
    heads = c.num_attention_heads
    yield (
        "num_key_value_heads",
        raw.get("num_key_value_heads") in (None, heads),
        f"is not num_attention_heads = {heads}",
    )
    key = c.qk_nope_head_dim + c.qk_rope_head_dim
    yield "qk_head_dim", raw.get("qk_head_dim") in (None, key), f"is not qk_nope_head_dim + qk_rope_head_dim = {key}"
    yield (
        "zero_expert_type",
        c.zero_expert_type in ("identity", "drop"),
        f"{shown(c.zero_expert_type)}: identity or drop",
    )
    agree = None in (raw.get("torch_dtype"), raw.get("dtype")) or raw["torch_dtype"] == raw["dtype"]
    yield "dtype", agree, f"{shown(raw.get('dtype'))} contradicts torch_dtype {shown(raw.get('torch_dtype'))}"
    served = c.torch_dtype in ("", "bfloat16", "float32")
    yield "torch_dtype", served, f"{shown(c.torch_dtype)} is not served; convert the weights to bfloat16 or float32"
    inside = all(0 <= eos < c.vocab_size for eos in c.eos_ids)
    yield "eos_token_id", inside, f"{c.eos_token_id} lies outside the vocabulary of {c.vocab_size}"
    yield (
        "bos_token_id",
        c.bos_token_id < c.vocab_size,
        f"{c.bos_token_id} lies outside the vocabulary of {c.vocab_size}",
    )


_MAY_BE_ZERO = {"zero_expert_num", "bos_token_id"}
_FIELDS = {field.name: field for field in fields(ModelConfig)}


def _given(name: str, values: Mapping[str, Any]) -> bool:
    if name in _COMPOSED:
        return False
    if values.get(name) is not None:
        return True
    if _FIELDS[name].default is MISSING:
        raise bad_field(name, "is missing")
    return False


def _typed(name: str, values: Mapping[str, Any]) -> Any:
    value, kind = values[name], str(_FIELDS[name].type)
    if kind == "float":
        # Compared before it is converted: float() overflows on an integer of 400 digits.
        if type(value) not in (int, float) or not LEAST <= value <= MOST:
            raise bad_field(name, f"{shown(value)} is not a number from {LEAST:g} to {MOST:g}")
        return float(value)
    if kind == "int":
        least, most = 0 if name in _MAY_BE_ZERO else 1, _MOST.get(name, _LARGEST)
        if type(value) is not int or not least <= value <= most:
            raise bad_field(name, f"{shown(value)} is not a whole number from {least} to {most}")
    if kind == "bool" and not isinstance(value, bool):
        raise bad_field(name, f"{shown(value)} is not true or false")
    if kind == "str" and not isinstance(value, str):
        raise bad_field(name, f"{shown(value)} is not a string")
    if name == "eos_token_id":
        ids = value if isinstance(value, tuple) else (value,)
        if not ids or not all(type(eos) is int for eos in ids):
            raise bad_field(name, f"{shown(value)} is not a token id or a list of them")
    return value
