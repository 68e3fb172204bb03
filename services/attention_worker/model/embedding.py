"""The embedding of tokens: their word rows, and where the model has them the rows of their n-grams.

Legend: T tokens, D hidden, V vocabulary, N ids of the longest n-gram, G tables of R rows of W values, E = G W.
Source: docs/longcat-flash.md, n-gram embedding.
"""

from __future__ import annotations

import torch
from caracal_kernels import linear
from torch import Tensor

from services.attention_worker.model.load import Load
from services.attention_worker.model.step import Step
from services.checkpoint.ngram import NgramConfig
from services.checkpoint.shared_tables import SharedTables
from services.checkpoint.tensors import EMBEDDING, ngram_projection


class Embedding:
    """x [T, D] of a step's tokens. `word_VD` is the word table."""

    def __init__(self, load: Load) -> None:
        self.word_VD = load(EMBEDDING)
        self._ngrams = Ngrams(load, load.config.ngram, load.ngram_tables()) if load.config.ngram else None

    @property
    def weights(self) -> list[Tensor]:
        """Everything but the n-gram tables, which processes share."""
        return [self.word_VD, *([self._ngrams.projection_DE] if self._ngrams is not None else [])]

    def __call__(self, step: Step) -> Tensor:
        # index_select, not x[rows]: that one wakes OpenMP's threads for a handful of rows.
        word_TD = self.word_VD.index_select(0, step.ids_T)
        return word_TD if self._ngrams is None else self._ngrams(word_TD, step.context_TN)


class Ngrams:
    """(word row + sum over the tables of projection · table row) / (1 + tables): summed in fp32, rounded once."""

    def __init__(self, load: Load, config: NgramConfig, tables: SharedTables) -> None:
        self._tables, self._parts = tables, 1 + config.tables
        self._context = config.neighbours
        self._multiplier_NG = torch.tensor([config.multipliers(table) for table in range(config.tables)]).T.contiguous()
        self._rows_G = torch.tensor([config.rows(table) for table in range(config.tables)])
        projections = [load(ngram_projection(table)) for table in range(config.tables)]
        # Side by side, so that one product walks the tables in their order.
        self.projection_DE = torch.cat(projections, dim=1)

    def __call__(self, word_TD: Tensor, context_TN: Tensor) -> Tensor:
        """`context_TN` is on the host, where the tables are."""
        if context_TN.shape[1] != self._context:
            raise ValueError(f"the step has {context_TN.shape[1]} ids of context, the model takes {self._context}")
        row_TE = self._gather(context_TN).to(word_TD)
        sum_TD = linear(row_TE, self.projection_DE, None, torch.float32).add_(word_TD)
        return sum_TD.div_(self._parts).to(word_TD.dtype)

    def _gather(self, context_TN: Tensor) -> Tensor:
        """[T, E]: each table's row for each token."""
        row_TG = (context_TN[:, :, None] * self._multiplier_NG).sum(1) % self._rows_G
        wanted = zip(self._tables.tables, row_TG.T, strict=True)
        return torch.cat([table_RW.index_select(0, row_T) for table_RW, row_T in wanted], dim=1)
