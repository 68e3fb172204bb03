"""Runs a model without an engine, so that tests choose any page layout and any mix of sequences.

Legend: T tokens of a step, S sequences, B rows sampled, X pages of one sequence, V vocabulary, P pages, I positions of
a page, L values of a latent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from random import Random

import numpy as np
import torch
from caracal_proto import placement_pb2
from caracal_proto.placements import layer_of
from torch import Tensor

from services.attention_worker.engine.ngram_context import Ids, context_of
from services.attention_worker.model.interfaces import DispatcherLike
from services.attention_worker.model.model import Model
from services.attention_worker.model.step import Step
from services.checkpoint.reader import Checkpoint
from services.expert_worker.experts import Experts
from services.local.in_process_link import LocalLink
from services.router.dispatch.moe_dispatcher import MoEDispatcher


@contextmanager
def local_dispatcher(checkpoint: Checkpoint, dtype: torch.dtype) -> Iterator[MoEDispatcher]:
    """Yields a real dispatcher to every expert, in this process."""
    config = checkpoint.config
    experts = Experts(checkpoint, dtype)
    for layer in range(config.num_layers):
        for expert in range(config.n_routed_experts):
            experts.load(layer, expert)
    dispatcher = MoEDispatcher(lambda endpoint: LocalLink(experts), config)
    here = placement_pb2.Endpoint(worker_id="local", address="local", boot_id="local")
    everywhere = layer_of([[0]] * config.n_routed_experts)
    dispatcher.apply(placement_pb2.Table(epoch=1, workers=[here], layers=[everywhere] * config.num_layers))
    try:
        yield dispatcher
    finally:
        dispatcher.close()


class Paged:
    """Sequences 0..S-1 with their pages in `caches`; `shuffle` scatters the pages over them."""

    def __init__(
        self,
        model: Model,
        dispatcher: DispatcherLike,
        *,
        sequences: int = 1,
        capacity: int = 192,
        page_size: int = 16,
        shuffle: Random | None = None,
    ) -> None:
        self._model, self._dispatcher, self._page_size = model, dispatcher, page_size
        per_sequence = -(-capacity // page_size)
        pages = list(range(3 * sequences * per_sequence))
        if shuffle:
            shuffle.shuffle(pages)
        owned = torch.tensor(pages[: sequences * per_sequence], dtype=torch.int32)
        self._table_SX = owned.view(sequences, per_sequence).contiguous()
        self.caches = model.new_cache(len(pages), page_size)
        for cache_PIL in self.caches:
            cache_PIL.fill_(1e4)  # a read of what was not written shows in the logits
        self._lengths = [0] * sequences
        self._ids: list[list[int]] = [[] for _ in range(sequences)]
        self._number = 0
        self.observe: Callable[[int, Tensor], None] | None = None  # of the steps that follow

    def feed(self, chunks: dict[int, list[int]]) -> dict[int, Tensor]:
        """Runs one step over the next ids of some sequences, in that order; returns the logits [chunk, V] of each."""
        ids: list[int] = []
        positions: list[int] = []
        rows: list[int] = []
        contexts: list[Ids] = []
        for sequence, chunk in chunks.items():
            ids += chunk
            positions += range(self._lengths[sequence], self._lengths[sequence] + len(chunk))
            rows += [sequence] * len(chunk)
            self._ids[sequence] += chunk
            if self._model.ngram is not None:
                start = self._lengths[sequence]
                contexts.append(context_of(self._model.ngram, self._ids[sequence], start, len(chunk)))
            self._lengths[sequence] += len(chunk)
        positions_T, seq_T = (torch.tensor(numbers, dtype=torch.int32) for numbers in (positions, rows))
        page_T = self._table_SX[seq_T.long(), positions_T.long() // self._page_size]
        step = Step(
            number=self._number,
            ids_T=torch.tensor(ids),
            positions_T=positions_T,
            seq_T=seq_T,
            slot_mapping_T=page_T * self._page_size + positions_T % self._page_size,
            page_table_SX=self._table_SX,
            sample_rows_B=torch.arange(len(ids)),
            context_TN=torch.from_numpy(np.concatenate(contexts or [np.empty((len(ids), 0), np.int64)])),
            observe=self.observe,
        )
        self._number += 1
        logits_TV = self._model.forward(step, self.caches, self._dispatcher)
        return dict(zip(chunks, torch.split(logits_TV, [len(chunk) for chunk in chunks.values()]), strict=True))
