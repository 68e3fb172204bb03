"""Builds the Step of scheduled chunks. Its tensors are allocated once and filled through numpy, in microseconds.

A Step is valid until the next one is built; one of drafts, until the next one of drafts.
Legend: T tokens of the step, B rows whose logits are wanted, S rows of the page table, X pages of a row, N ids of the
longest n-gram.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from services.attention_worker.engine.host_tier import Move
from services.attention_worker.engine.kv_cache import KvCache
from services.attention_worker.engine.ngram_context import context_of
from services.attention_worker.engine.step_plan import Chunk
from services.attention_worker.model.step import Step
from services.checkpoint.ngram import NgramConfig


@dataclass(frozen=True, slots=True)
class Span:
    """Ids at consecutive positions of one row of the page table, the first at `start`."""

    row: int
    ids: list[int]
    start: int


class Arrays:
    """The arrays of a step, and the tensors that share their memory."""

    def __init__(self, cache: KvCache, max_tokens: int, ngram: NgramConfig | None) -> None:
        self._cache = cache
        self.context_TN = np.zeros((max_tokens, ngram.neighbours if ngram else 0), np.int64)
        self._ids_T = np.zeros(max_tokens, np.int64)
        self._positions_T = np.zeros(max_tokens, np.int32)
        self._seq_T = np.zeros(max_tokens, np.int32)
        self._slot_mapping_T = np.zeros(max_tokens, np.int32)
        self._sample_B = np.zeros(max_tokens, np.int64)
        self._arange = np.arange(max_tokens, dtype=np.int32)
        arrays = (self._ids_T, self._positions_T, self._seq_T, self._slot_mapping_T, self._sample_B, self.context_TN)
        self._tensors = [torch.from_numpy(array) for array in arrays]

    def put(self, token: int, span: Span) -> int:
        """Writes a span at a place of the step; returns the place after it."""
        length, start, row = len(span.ids), span.start, span.row
        if length == 1:
            return self.put_one(token, row, span.ids[0], start)
        table_SX, page_size = self._cache.pages.table_SX, self._cache.pages.page_size
        end = token + length
        self._seq_T[token:end] = row
        positions = np.add(self._arange[:length], start, out=self._positions_T[token:end])
        page_T, offset_T = np.divmod(positions, page_size)
        self._ids_T[token:end] = span.ids
        self._slot_mapping_T[token:end] = table_SX[row, page_T] * page_size + offset_T
        return end

    def put_one(self, token: int, row: int, id: int, position: int) -> int:
        """The same for one id. Scalars: in a step of decodes numpy's fixed cost per call would dominate."""
        pages = self._cache.pages
        page, offset = divmod(position, pages.page_size)
        self._seq_T[token] = row
        self._ids_T[token] = id
        self._positions_T[token] = position
        self._slot_mapping_T[token] = pages.table_SX[row, page] * pages.page_size + offset
        return token + 1

    def copy(self, other: Arrays, rows_T: NDArray[np.int64], ids: list[int]) -> None:
        """Writes rows of other arrays, with these ids."""
        count = len(rows_T)
        self._ids_T[:count] = ids
        for to_T, from_T in (
            (self._positions_T, other._positions_T),
            (self._seq_T, other._seq_T),
            (self._slot_mapping_T, other._slot_mapping_T),
        ):
            np.take(from_T, rows_T, out=to_T[:count])

    def step(
        self, number: int, tokens: int, wanted: list[int], moves: Sequence[Move] = (), received: Sequence[bytes] = ()
    ) -> Step:
        """The step of what was put there; `wanted`: its sample rows; `moves`: what is to be copied before it,
        some of it what was `received`."""
        self._sample_B[: len(wanted)] = wanted
        ids_T, positions_T, seq_T, slot_mapping_T, sample_B, context_TN = self._tensors
        return Step(
            number=number,
            ids_T=ids_T[:tokens],
            positions_T=positions_T[:tokens],
            seq_T=seq_T[:tokens],
            slot_mapping_T=slot_mapping_T[:tokens],
            page_table_SX=self._cache.page_table_SX,
            sample_rows_B=sample_B[: len(wanted)],
            context_TN=context_TN[:tokens],
            moves_M3=torch.tensor(moves, dtype=torch.int32).view(-1, 3),
            received_RB=self._cache.host.rows_of(received),
        )


class StepInputs:
    """Builds the model's input for the chunks of one step."""

    def __init__(self, cache: KvCache, max_batch_tokens: int, ngram: NgramConfig | None = None) -> None:
        self._ngram, self._host = ngram, cache.pages.host
        self.arrays = Arrays(cache, max_batch_tokens, ngram)

    def build(self, number: int, chunks: list[Chunk]) -> Step:
        """The chunks' tokens, concatenated, as the input of a step.

        Its sample rows: of each chunk that samples the row of its last known token; then of each with a draft the row
        of the first one, and so on; then the rows that score prompts, as the chunks follow one another.
        """
        token = most = 0
        last: list[int] = []  # of the known tokens of each chunk that samples
        drafts: list[int] = []
        scored: list[int] = []
        for chunk in chunks:
            sequence, start = chunk.sequence, chunk.start
            assert sequence.row is not None, "only running sequences are scheduled"
            if chunk.length == 1:
                end = self.arrays.put_one(token, sequence.row, sequence.ids[start], start)
            else:
                end = self.arrays.put(token, Span(sequence.row, chunk.ids, start))
            if self._ngram is not None:
                ids = sequence.ids + chunk.own_drafts if chunk.drafts else sequence.ids
                self.arrays.context_TN[token:end] = context_of(self._ngram, ids, start, chunk.length)
            if sequence.unscored:
                scored += range(token + chunk.scores.start - start - 1, token + chunk.scores.stop - start - 1)
            token = end
            if chunk.samples:
                last.append(end - 1 - chunk.drafts)
                drafts.append(chunk.drafts)
                most = max(most, chunk.drafts)
        wanted = last[:]
        for place in range(1, most + 1):
            wanted += [row + place for row, drafted in zip(last, drafts, strict=True) if drafted >= place]
        return self.arrays.step(number, token, wanted + scored, self._host.take_moves(), self._host.take_received())


class DraftInputs:
    """Builds the input of the draft: rows of the model, each with the token after it.

    What is to be copied for pages that the draft was given waits for the next step of the model: until then only the
    draft's own cache is written to.
    """

    def __init__(self, cache: KvCache, step_arrays: Arrays, max_batch_tokens: int) -> None:
        """`step_arrays`: those that `StepInputs` fills."""
        self._step, self._arrays = step_arrays, Arrays(cache, max_batch_tokens, None)
        self._rows_T = np.zeros(max_batch_tokens, np.int64)
        self._rows = torch.from_numpy(self._rows_T)

    def after_step(self, rows: list[int], ids: list[int], wanted: list[int]) -> tuple[Step, Tensor]:
        """(the step of the model's last rows of these numbers, those numbers); `ids`: the token after each.

        `wanted`: which of the step's rows are to guess a token. The other ones may be of sequences that have ended.
        """
        self._rows_T[: len(rows)] = rows
        self._arrays.copy(self._step, self._rows_T[: len(rows)], ids)
        return self._arrays.step(0, len(rows), wanted), self._rows[: len(rows)]

    def again(self, places: list[int], spans: list[Span]) -> tuple[Step, Tensor]:
        """(a step of one row for each sequence, which all guess a token; their places in the one before)."""
        for token, span in enumerate(spans):
            self._arrays.put(token, span)
        self._rows_T[: len(places)] = places
        return self._arrays.step(0, len(places), list(range(len(places)))), self._rows[: len(places)]
