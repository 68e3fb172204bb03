"""What a worker holds: weights, pages of the KV cache, and what is left for buffers.

A GPU's worker fills GPU_PERCENT of its memory with weights and pages; one on CPUs takes pages for a sequence of the
whole context and for LEAST_TOKENS, within CPU_PERCENT of the free memory. Both as
`services/attention_worker/engine/memory.py` does.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from services.planner.serving import Serving
from services.planner.shape import BYTES, Shape

GPU_PERCENT, CPU_PERCENT = 90, 25
LEAST_TOKENS = 32_768  # that a cache on CPUs holds, if memory allows
PAGE_TOKENS = 64
CPU_STEP_TOKENS, GPU_STEP_TOKENS = 256, 4096  # of one worker in one step, at most


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

    def sequences(self, tokens: float) -> int:
        """How many sequences of so many tokens the pages hold."""
        return max(0, self.pages) // math.ceil(tokens / PAGE_TOKENS)


def attention_bytes(shape: Shape, serving: Serving) -> float:
    """Weights of one rank of an attention worker: what each rank has whole, and its part of the rest.

    Embedding, head, norms and the draft stay in bf16 where other matrices are fp8; gates are fp32. Scales of fp8, 0.02
    % of the weights, are not counted.
    """
    a, narrow, tp = shape.attention, BYTES[serving.dense_dtype], serving.tp
    wide = max(2.0, narrow)
    sublayers = shape.layers * shape.sublayers
    matrices = sublayers * (a.projected + shape.dense_params) + shape.layers * shape.shared_params
    matrices += shape.plain_layers * shape.plain_params
    whole = (sublayers + shape.plain_layers) * a.whole
    gates = shape.layers * shape.gate_params
    embedding, head = shape.vocabulary * shape.hidden, shape.end_params - shape.vocabulary * shape.hidden
    rest = max(0, shape.attention_side_params - matrices - gates - embedding - head)
    biases = min(rest, gates // shape.hidden)  # of gates
    size = narrow * (whole + (matrices - whole) / tp) + BYTES["fp32"] * (gates + biases)
    size += wide * (rest - biases + embedding + head / tp)
    if serving.drafts:
        parted = min(shape.draft_params, 2 * shape.hidden**2 + a.projected - a.whole + shape.dense_params)
        size += wide * (shape.draft_params - parted + parted / tp)
    return size


def token_bytes(shape: Shape, serving: Serving) -> float:
    """Bytes of one token in one device's KV cache. Ranks share out the heads of grouped queries, but no latent."""
    wide = "fp32" if serving.dense_dtype == "fp32" else "bf16"
    cached = shape.cached_token_bytes(serving.kv_dtype, serving.drafts > 0, wide)
    return cached / min(serving.tp, shape.attention.kv_heads)


def experts_bytes(shape: Shape, experts: float, serving: Serving) -> float:
    """Bytes of so many experts in each of all layers."""
    return shape.layers * experts * shape.expert_params * BYTES[serving.expert_dtype]


def table_bytes(shape: Shape, serving: Serving) -> float:
    """Bytes of the n-gram tables, which a machine has once, in host memory that its workers share."""
    return shape.table_values * max(2.0, BYTES[serving.dense_dtype])


def on_device(
    shape: Shape,
    serving: Serving,
    memory_bytes: float,
    held: float,
    attention: bool = True,
    platform: str = "cuda",
) -> Memory:
    """A device with `held` experts of each layer and, if `attention`, an attention worker's weights and pages."""
    dense = attention_bytes(shape, serving) if attention else 0.0
    experts = experts_bytes(shape, held, serving)
    page = PAGE_TOKENS * token_bytes(shape, serving)
    if platform == "cpu":
        free = memory_bytes - dense - experts
        wanted = math.ceil(max(shape.longest, LEAST_TOKENS) / PAGE_TOKENS)
        return Memory(dense, experts, page, min(wanted, int(free * CPU_PERCENT / 100 // page)))
    left = memory_bytes * GPU_PERCENT / 100 - dense - experts
    return Memory(dense, experts, page, int(left // page))


def step_tokens(platform: str) -> int:
    """The most tokens of a worker's step, and so the most sequences that it may run."""
    return CPU_STEP_TOKENS if platform == "cpu" else GPU_STEP_TOKENS
