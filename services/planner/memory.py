"""What a worker holds: weights, pages of the KV cache, and what is left for buffers.

A GPU's worker fills GPU_PERCENT of its memory with weights and pages, as
`services/attention_worker/engine/memory.py` does.
"""

from __future__ import annotations

from dataclasses import dataclass

from services.planner.serving import Serving
from services.planner.shape import BYTES, Shape

GPU_PERCENT = 90
PAGE_TOKENS = 64


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes on one device. `pages`: how many fit beside the weights; 0 or less: the weights do not fit."""

    dense_bytes: float
    expert_bytes: float
    page_bytes: float
    pages: int

    @property
    def cached_tokens(self) -> int:
        return max(0, self.pages) * PAGE_TOKENS


def attention_bytes(shape: Shape, serving: Serving) -> float:
    """Weights of an attention worker's device: embeddings and head stay in bf16, and so does the draft."""
    ends = min(shape.attention_side_params, 2 * shape.vocabulary * shape.hidden)
    rest = shape.attention_side_params - ends
    wide = max(2.0, BYTES[serving.dense_dtype])
    draft = shape.draft_params if serving.drafts else 0
    return (rest * BYTES[serving.dense_dtype] + (ends + draft) * wide) / serving.tp


def token_bytes(shape: Shape, serving: Serving) -> float:
    """Bytes of one token in one device's KV cache."""
    draft = 0 if serving.drafts else shape.draft_cached
    return (shape.cached_per_token - draft) * BYTES[serving.kv_dtype] / min(serving.tp, shape.attention.kv_heads)


def experts_bytes(shape: Shape, experts: float, serving: Serving) -> float:
    """Bytes of so many experts in each of all layers."""
    return shape.layers * experts * shape.expert_params * BYTES[serving.expert_dtype]


def on_device(shape: Shape, serving: Serving, memory_bytes: float, held: float, attention: bool = True) -> Memory:
    """A device with `held` experts of each layer and, if `attention`, an attention worker's weights and pages."""
    dense = attention_bytes(shape, serving) if attention else 0.0
    experts = experts_bytes(shape, held, serving)
    page = PAGE_TOKENS * token_bytes(shape, serving)
    left = memory_bytes * GPU_PERCENT / 100 - dense - experts
    return Memory(dense, experts, page, int(left // page))
