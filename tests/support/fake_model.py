"""A model without weights: its logits depend on the ids of a sequence alone, read back through pages like latents.

It keeps the ids themselves in the cache, so that a wrong page, cache position, row or position changes the logits.
Legend: T tokens, B rows sampled, S sequences, X pages of a sequence, V vocabulary, P pages, I positions of a page,
L values of a latent.
"""

from __future__ import annotations

import time
from random import Random

import torch
from torch import Tensor

from services.attention_worker.model.step import Step

VOCAB = 97


class FakeModel:
    """Returns one of 1009 random rows as logits, chosen by a hash of every id of the sequence up to the position.

    `right`: the share of its drafts that have the logits which the model will have; None: it does not draft.
    """

    def __init__(self, vocab: int = VOCAB, right: float | None = None) -> None:
        self.rows = torch.randn(1009, vocab, generator=torch.Generator().manual_seed(0))
        self.fail_next: Exception | None = None
        self.drafts = right is not None
        self._right, self._random = right or 0.0, Random(1)
        self.step_s = 0.0  # that a step takes at least

    ngram = None

    def new_cache(self, num_pages: int, page_size: int) -> list[Tensor]:
        shape = (num_pages, page_size, 1)
        return [torch.full(shape, -1, dtype=torch.int64) for _ in range(1 + self.drafts)]

    def forward(self, step: Step, caches: list[Tensor], dispatcher: object) -> Tensor:
        if self.fail_next is not None:
            error, self.fail_next = self.fail_next, None
            raise error
        time.sleep(self.step_s)
        caches[0].view(-1)[step.slot_mapping_T.long()] = step.ids_T
        self._last, self._ahead = step, 0
        return self.rows[[_hash(_ids(step, caches[0], token)) for token in step.sample_rows_B.tolist()]]

    def draft(self, step: Step, rows_T: Tensor, caches: list[Tensor]) -> Tensor:
        """Its cache has at each position the id after it, which must be those of the model's cache.

        But for the last position of a page: that may be shared, and go on otherwise.
        """
        ahead = self._ahead  # of the model: a draft of a draft is
        assert torch.equal(step.seq_T, self._last.seq_T[rows_T])
        assert torch.equal(step.positions_T, self._last.positions_T[rows_T] + (ahead > 0))
        caches[1].view(-1)[step.slot_mapping_T.long()] = step.ids_T
        chosen = []
        for token in step.sample_rows_B.tolist():
            after = _ids(step, caches[1], token)
            known = len(after) - ahead
            before = _ids(step, caches[0], token, ahead=ahead)
            same = before[1:known] == after[: known - 1]
            same[caches[1].shape[1] - 1 :: caches[1].shape[1]] = True
            assert same.all(), "the draft's cache has other ids than the model's"
            right = self._random.random() < self._right
            ids = torch.cat([before[:known], after[known - 1 :]])
            chosen.append(_hash(ids) if right else self._random.randrange(1009))
        self._last, self._ahead = _sampled(step), ahead + 1
        return self.rows[chosen]


def _sampled(step: Step) -> Step:
    rows_B = step.sample_rows_B
    return Step(
        number=0,
        ids_T=step.ids_T[rows_B],
        positions_T=step.positions_T[rows_B],
        seq_T=step.seq_T[rows_B],
        slot_mapping_T=step.slot_mapping_T[rows_B],
        page_table_SX=step.page_table_SX,
        sample_rows_B=rows_B,
        context_TN=step.context_TN,
    )


def _ids(step: Step, cache_PIL: Tensor, token: int, ahead: int = 0) -> Tensor:
    """What a cache has for a token's sequence, up to the token, or up to `ahead` before it."""
    position, row = int(step.positions_T[token]) - ahead, int(step.seq_T[token])
    pages = step.page_table_SX[row, : position // cache_PIL.shape[1] + 1].long()
    assert (pages >= 0).all(), "a position without a page"
    ids = cache_PIL[pages].view(-1)[: position + 1]
    assert (ids >= 0).all(), "a position that was never written"
    return ids


def _hash(ids: Tensor) -> int:
    return int(((ids + 1) * (torch.arange(len(ids)) * 31 + 7)).sum() % 1009)
