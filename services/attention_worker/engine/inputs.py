"""Builds the Step of scheduled chunks. Its tensors are allocated once and filled through numpy, in microseconds.

A Step is valid until the next one is built.
Legend: T tokens of the step, B rows whose logits are wanted (first those that get a token, then those that score a
prompt), S rows of the page table, X pages of a row, N ids of the longest n-gram.
"""

from __future__ import annotations

import numpy as np
import torch

from services.attention_worker.engine.kv_cache import KvCache
from services.attention_worker.engine.ngram_context import context_of
from services.attention_worker.engine.scheduler import Chunk
from services.attention_worker.model.step import Step
from services.checkpoint.ngram import NgramConfig


class StepInputs:
    """Builds the model's input for the chunks of one step."""

    def __init__(self, cache: KvCache, max_batch_tokens: int, ngram: NgramConfig | None = None) -> None:
        self._cache, self._ngram = cache, ngram
        self._context_TN = np.zeros((max_batch_tokens, ngram.neighbours if ngram else 0), np.int64)
        self._ids_T = np.zeros(max_batch_tokens, np.int64)
        self._positions_T = np.zeros(max_batch_tokens, np.int32)
        self._seq_T = np.zeros(max_batch_tokens, np.int32)
        self._slot_mapping_T = np.zeros(max_batch_tokens, np.int32)
        self._sample_B = np.zeros(max_batch_tokens, np.int64)
        self._arange = np.arange(max_batch_tokens, dtype=np.int32)
        arrays = (self._ids_T, self._positions_T, self._seq_T, self._slot_mapping_T, self._sample_B, self._context_TN)
        self._tensors = [torch.from_numpy(array) for array in arrays]

    def build(self, number: int, chunks: list[Chunk]) -> Step:
        """The chunks' tokens, concatenated, as the input of a step."""
        tokens, wanted = self._fill(chunks)
        ids_T, positions_T, seq_T, slot_mapping_T, sample_B, context_TN = self._tensors
        return Step(
            number=number,
            ids_T=ids_T[:tokens],
            positions_T=positions_T[:tokens],
            seq_T=seq_T[:tokens],
            slot_mapping_T=slot_mapping_T[:tokens],
            page_table_SX=self._cache.page_table_SX,
            sample_rows_B=sample_B[:wanted],
            context_TN=context_TN[:tokens],
            moves_M3=torch.tensor(self._cache.pages.host.take_moves(), dtype=torch.int32).view(-1, 3),
        )

    def _fill(self, chunks: list[Chunk]) -> tuple[int, int]:
        """Fills the arrays; returns the numbers of tokens and of sample rows."""
        table_SX, page_size = self._cache.pages.table_SX, self._cache.pages.page_size
        token = wanted = 0
        scored: list[range] = []
        for chunk in chunks:
            sequence, start, length = chunk.sequence, chunk.start, chunk.length
            end = token + length
            assert sequence.row is not None, "only running sequences are scheduled"
            self._seq_T[token:end] = sequence.row
            # Scalars for a decode: in a step of decodes numpy's fixed cost per call would dominate.
            if length == 1:
                page, offset = divmod(start, page_size)
                self._ids_T[token] = sequence.ids[start]
                self._positions_T[token] = start
                self._slot_mapping_T[token] = table_SX[sequence.row, page] * page_size + offset
            else:
                positions = np.add(self._arange[:length], start, out=self._positions_T[token:end])
                page_T, offset_T = np.divmod(positions, page_size)
                self._ids_T[token:end] = sequence.ids[start : start + length]
                self._slot_mapping_T[token:end] = table_SX[sequence.row, page_T] * page_size + offset_T
            if self._ngram is not None:
                self._context_TN[token:end] = context_of(self._ngram, sequence.ids, start, length)
            if sequence.unscored:
                scored.append(range(token + chunk.scores.start - start - 1, token + chunk.scores.stop - start - 1))
            token = end
            if chunk.samples:
                self._sample_B[wanted] = token - 1
                wanted += 1
        for rows in scored:
            self._sample_B[wanted : wanted + len(rows)] = rows
            wanted += len(rows)
        return token, wanted
