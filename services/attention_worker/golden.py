"""A golden forward: fixed tokens through all of an attention worker's weights, without an expert.

Workers of one numerics class compute the same bits, so one whose memory or arithmetic does not hold what was read is
found before its first request, and later by computing them again (`golden_check.py`).
Legend: T tokens, K choices, V vocabulary, D hidden, B bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from caracal_kernels import GateWeights, combine, crc32, route
from torch import Tensor

from services.attention_worker.engine.engine import ModelLike
from services.attention_worker.engine.ngram_context import context_of
from services.attention_worker.model.interfaces import DispatcherLike
from services.attention_worker.model.step import Step
from services.checkpoint.config import ModelConfig
from services.checkpoint.ngram import NgramConfig

TOKENS = 16  # no page is smaller
STRIDE = 7919


@dataclass(frozen=True, slots=True)
class _WithoutExperts:
    """A MoE output to which experts add nothing."""

    h_TD: Tensor
    weights_TK: Tensor
    zero_T: Tensor

    def finish(self, residual_TD: Tensor) -> Tensor:
        nothing_TK = torch.full(self.weights_TK.shape, -1, dtype=torch.int32, device=self.h_TD.device)
        return combine(self.h_TD[:0], nothing_TK, self.weights_TK, self.zero_T, self.h_TD, residual_TD)


class _NoExperts:
    """Runs the gates, and notes what they choose."""

    def __init__(self, config: ModelConfig) -> None:
        self._config, self.digest = config, hashlib.sha256()
        self.checksum = 0  # of all that was noted

    def start(self, layer: int, h_TD: Tensor, gate: GateWeights, step: Step) -> _WithoutExperts:
        config = self._config
        ids_TK, weights_TK, zero_T = route(
            h_TD,
            gate.classifier_GD,
            gate.bias_G,
            config.moe_topk,
            config.n_routed_experts,
            config.routed_scaling_factor,
            config.norm_topk_prob,
        )
        for each in (ids_TK, weights_TK):
            self.digest.update(each.cpu().numpy().tobytes())
            self.note(each)
        return _WithoutExperts(h_TD, weights_TK, zero_T)

    def note(self, rows: Tensor) -> int:
        """Adds the rows' bytes to the checksum; returns it."""
        bytes_B = torch.nan_to_num(rows, nan=0.0).cpu().contiguous().view(-1).view(torch.uint8)
        self.checksum = crc32(bytes_B.numpy().data, self.checksum)
        return self.checksum


@runtime_checkable
class InParts(Protocol):
    """A model that can stop between two layers of a step."""

    @property
    def ngram(self) -> NgramConfig | None: ...

    def new_cache(self, num_pages: int, page_size: int) -> list[Tensor]: ...

    def in_parts(self, step: Step, caches: list[Tensor], dispatcher: DispatcherLike) -> Iterator[Tensor]: ...


class GoldenTokens:
    """The golden forward, a part at a time, with a cache of its own. Other steps may run between two parts."""

    def __init__(self, model: InParts, config: ModelConfig, page_size: int) -> None:
        self._model, self._config = model, config
        self._step, self._caches = _step(config.vocab_size, model.ngram), model.new_cache(1, page_size)

    def parts(self) -> Iterator[int]:
        """Runs them once: yields the checksum of all that was computed so far, after each part of the model's."""
        experts = _NoExperts(self._config)
        for rows in self._model.in_parts(self._step, self._caches, experts):
            yield experts.note(rows)


@torch.inference_mode()
def golden_forward(model: ModelLike, config: ModelConfig, page_size: int) -> bytes:
    """The digest of what the model gives for the golden tokens. It writes to the first page of a cache of its own."""
    experts = _NoExperts(config)
    step = _step(config.vocab_size, model.ngram)
    logits_TV = model.forward(step, model.new_cache(1, page_size), experts)
    experts.digest.update(torch.nan_to_num(logits_TV, nan=0.0).cpu().numpy().tobytes())
    return experts.digest.digest()


def _step(vocabulary: int, ngram: NgramConfig | None) -> Step:
    ids = [(1 + STRIDE * place) % vocabulary for place in range(TOKENS)]
    at_T = torch.arange(TOKENS, dtype=torch.int32)
    context_TN = torch.empty((TOKENS, 0), dtype=torch.int64)
    return Step(
        number=0,
        ids_T=torch.tensor(ids, dtype=torch.int64),
        positions_T=at_T,
        seq_T=torch.zeros_like(at_T),
        slot_mapping_T=at_T,
        page_table_SX=torch.zeros((1, 1), dtype=torch.int32),
        sample_rows_B=at_T.to(torch.int64),
        context_TN=torch.from_numpy(context_of(ngram, ids, 0, TOKENS)) if ngram else context_TN,
    )
