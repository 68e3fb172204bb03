"""A model without weights: its logits depend on the ids of a sequence alone, read back through pages like latents.

It keeps the ids themselves in the cache, so that a wrong page, cache position, row or position changes the logits.
Legend: T tokens, B rows sampled, S sequences, X pages of a sequence, V vocabulary, P pages, I positions of a page,
L values of a latent.
"""

from __future__ import annotations

import torch
from torch import Tensor

from services.attention_worker.model.step import Step

VOCAB = 97


class FakeModel:
    """Returns one of 1009 random rows as logits, chosen by a hash of every id of the sequence up to the position."""

    def __init__(self, vocab: int = VOCAB) -> None:
        self.rows = torch.randn(1009, vocab, generator=torch.Generator().manual_seed(0))
        self.fail_next: Exception | None = None

    ngram = None

    def new_cache(self, num_pages: int, page_size: int) -> list[Tensor]:
        return [torch.full((num_pages, page_size, 1), -1, dtype=torch.int64)]

    def forward(self, step: Step, caches: list[Tensor], dispatcher: object) -> Tensor:
        if self.fail_next is not None:
            error, self.fail_next = self.fail_next, None
            raise error
        cache_PIL = caches[0]
        cache_PIL.view(-1)[step.slot_mapping_T.long()] = step.ids_T
        chosen = [self._hash(step, cache_PIL, token) for token in step.sample_rows_B.tolist()]
        return self.rows[chosen]

    @staticmethod
    def _hash(step: Step, cache_PIL: Tensor, token: int) -> int:
        position, row = int(step.positions_T[token]), int(step.seq_T[token])
        pages = step.page_table_SX[row, : position // cache_PIL.shape[1] + 1].long()
        assert (pages >= 0).all(), "a position without a page"
        ids = cache_PIL[pages].view(-1)[: position + 1]
        assert (ids >= 0).all(), "a position that was never written"
        return int(((ids + 1) * (torch.arange(position + 1) * 31 + 7)).sum() % 1009)
