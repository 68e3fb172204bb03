"""The sizes of a model that a step's cost depends on, of LongCat's family and of others that figures are about."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

BYTES = {"fp32": 4.0, "bf16": 2.0, "fp8": 1.0, "nvfp4": 0.5625}  # of a value; nvfp4 has an fp8 scale for each 16 values
SCALED = 128  # values of an fp8 latent that share a scale


def _fours(size: int) -> int:
    """Rounded up to whole words of four bytes."""
    return -(-size // 4) * 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Attention:
    """One attention sublayer.

    `kept` is the number of keys that a query attends to at most, `index_heads` and `index_width` choose them; 0: all
    keys.
    """

    heads: int
    cached: int  # values per token in the KV cache
    projected: int  # parameters of all projections
    out: int  # those of them that follow the core
    key_flops: int  # multiply-adds count twice: of one query row with one key, scores and values
    whole: int = 0  # of `projected`, those that each rank of a tensor-parallel group has whole
    rope: int = 0  # values of a latent in the cache that stay in bf16 where it is fp8; 0: it is no latent
    kv_heads: int = 1  # that a tensor-parallel group can divide; an MLA's latent is one
    kept: int = 0
    index_heads: int = 0
    index_width: int = 0
    windowed: float = 0.0  # share of sublayers in which a query attends to its first and last keys alone
    window: int = 0  # how many those are

    def cached_bytes(self, dtype: str, wide: str = "bf16") -> float:
        """Bytes of a token in one sublayer's cache.

        A latent in fp8 has an fp32 scale for each of its blocks, and its rope part stays in the model's `wide` dtype.
        """
        if dtype != "fp8" or not self.rope:
            return self.cached * BYTES[dtype]
        latent = self.cached - self.rope
        return _fours(latent) + 4.0 * -(-latent // SCALED) + _fours(int(BYTES[wide]) * self.rope)

    def keys(self, context: float) -> float:
        """How many keys a query's scores are made of, on average over sublayers."""
        if self.kept:
            return min(context, self.kept)
        return context - self.windowed * max(0.0, context - self.window)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """A mixture-of-experts model. `sublayers`: attentions of a layer; `dense_ffn`: width of each sublayer's MLP."""

    name: str
    layers: int  # that have experts
    hidden: int
    vocabulary: int
    attention: Attention
    experts: int
    top_k: int
    expert_ffn: int
    zero: int = 0
    sublayers: int = 1
    dense_ffn: int = 0
    shared_ffn: int = 0  # of the expert that every token uses
    plain_layers: int = 0  # without experts
    plain_ffn: int = 0
    shortcut: bool = False  # what experts add is needed at the end of the layer only
    draft_params: int = 0  # of multi-token prediction
    table_values: int = 0  # of n-gram tables
    longest: int = 131072
    counted_params: int = 0  # of an attention worker, where all tensors were counted; 0: see attention_side_params
    tied: bool = False  # the head is the embedding

    @property
    def expert_params(self) -> int:
        return 3 * self.hidden * self.expert_ffn

    @property
    def ffn_choices(self) -> float:
        """How many FFN experts a token uses on average, if the gate chooses evenly: zero experts cost nothing."""
        return self.top_k * self.experts / (self.experts + self.zero)

    @property
    def zero_share(self) -> float:
        return self.zero / (self.experts + self.zero)

    @property
    def dense_params(self) -> int:
        """Parameters of one sublayer's MLP."""
        return 3 * self.hidden * self.dense_ffn

    @property
    def shared_params(self) -> int:
        return 3 * self.hidden * self.shared_ffn

    @property
    def gate_params(self) -> int:
        return self.hidden * (self.experts + self.zero)

    @property
    def plain_params(self) -> int:
        """Parameters of one layer without experts."""
        return self.attention.projected + 3 * self.hidden * self.plain_ffn

    @property
    def attention_side_params(self) -> int:
        """Everything that is not an expert, as an attention worker loads it; without norms unless they were counted."""
        if self.counted_params:
            return self.counted_params
        layer = self.sublayers * (self.attention.projected + self.dense_params) + self.gate_params + self.shared_params
        return self.layers * layer + self.plain_layers * self.plain_params + self.end_params

    @property
    def end_params(self) -> int:
        """Embedding and head."""
        return (1 if self.tied else 2) * self.vocabulary * self.hidden

    @property
    def all_expert_params(self) -> int:
        return self.layers * self.experts * self.expert_params

    def cached_token_bytes(self, dtype: str, drafts: bool, wide: str = "bf16") -> float:
        """Bytes of a token in the KV cache, over all layers; keys of an index, where there is one, once per layer.

        With `drafts` also in the draft's cache, which is of the same kind.
        """
        layers = self.layers * self.sublayers + self.plain_layers + (drafts and self.draft_params > 0)
        index = self.attention.index_width * (self.layers + self.plain_layers) if self.attention.kept else 0
        return layers * self.attention.cached_bytes(dtype, wide) + index * BYTES[dtype]


def mla(
    hidden: int,
    heads: int,
    *,
    q_rank: int = 1536,
    kv_rank: int = 512,
    nope: int = 128,
    rope: int = 64,
    value: int = 128,
    kept: int = 0,
    index_heads: int = 0,
    index_width: int = 0,
    windowed: float = 0.0,
    window: int = 0,
) -> Attention:
    """Multi-head latent attention, absorbed: a key is a row of kv_rank + rope values, shared by all heads."""
    out = kv_rank * heads * value + heads * value * hidden
    q = hidden * q_rank + q_rank * heads * (nope + rope) if q_rank else hidden * heads * (nope + rope)
    index = q_rank * index_heads * index_width + hidden * (index_width + index_heads) if kept else 0
    return Attention(
        heads=heads,
        cached=kv_rank + rope,
        projected=q + hidden * (kv_rank + rope) + kv_rank * heads * nope + out + index,
        out=out,
        whole=hidden * (q_rank + kv_rank + rope) + index,
        rope=rope,
        key_flops=2 * heads * (2 * kv_rank + rope),
        kept=kept,
        index_heads=index_heads,
        index_width=index_width,
        windowed=windowed,
        window=window,
    )


def gqa(hidden: int, heads: int, kv_heads: int, width: int, q_rank: int = 0) -> Attention:
    """Grouped-query attention; with `q_rank` queries go through a low rank, as multi-matrix factorization attention."""
    q = hidden * q_rank + q_rank * heads * width if q_rank else hidden * heads * width
    return Attention(
        heads=heads,
        cached=2 * kv_heads * width,
        projected=q + 2 * hidden * kv_heads * width + heads * width * hidden,
        out=heads * width * hidden,
        whole=hidden * q_rank,
        kv_heads=kv_heads,
        key_flops=2 * heads * 2 * width,
    )


Overlap = Literal["none", "sbo", "tbo"]
