"""A model whose drafts are right at a set rate: it knows the answers, which are the same with and without drafts.

The draft runs all the same, so that it costs what it costs; only what it guesses is replaced.
Legend: T tokens, B rows of logits, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from torch import Tensor

from services.attention_worker.loading import Servable
from services.attention_worker.model.interfaces import DispatcherLike
from services.attention_worker.model.step import Step
from services.checkpoint.config import ModelConfig
from services.checkpoint.ngram import NgramConfig

SURE = 1e6  # a logit that no noise, bias or penalty makes up for


class RiggedDrafts:
    """Passes everything on to a model but its guesses. `known`: ids of whole sequences, prompt and answer."""

    def __init__(self, model: Servable, known: Sequence[Sequence[int]], rate: float, seed: int = 0) -> None:
        self.config: ModelConfig = model.config
        self.device = model.device
        self._model, self._rate, self._random = model, rate, Random(seed)
        self._known = [list(ids) for ids in known]
        self._rows: dict[int, list[int]] = {}  # the ids of each row of the page table, as far as they are computed
        self._found: dict[int, list[int]] = {}  # which of the known sequences a row has

    @property
    def ngram(self) -> NgramConfig | None:
        return self._model.ngram

    @property
    def drafts(self) -> bool:
        return self._model.drafts

    def new_cache(self, num_pages: int, page_size: int) -> list[Tensor]:
        return self._model.new_cache(num_pages, page_size)

    def forward(self, step: Step, caches: list[Tensor], dispatcher: DispatcherLike) -> Tensor:
        for row, position, token in _tokens(step):
            self._put(row, position, token)
        return self._model.forward(step, caches, dispatcher)

    def draft(self, step: Step, rows_T: Tensor, caches: list[Tensor]) -> Tensor:
        logits_BV = self._model.draft(step, rows_T, caches)
        tokens = list(_tokens(step))
        for row, position, token in tokens:
            self._put(row, position + 1, token)
        for place, sampled in enumerate(step.sample_rows_B.tolist()):
            row, position, _ = tokens[sampled]
            after = position + 2  # the place of the token that is guessed
            known = self._sequence(row, self._rows[row][:after])
            if known is not None and after < len(known):
                guess = known[after] + (self._random.random() >= self._rate)
                logits_BV[place].fill_(0.0)[guess % logits_BV.shape[1]] = SURE
        return logits_BV

    def _put(self, row: int, position: int, token: int) -> None:
        ids = self._rows.setdefault(row, [])
        del ids[position:]
        ids.append(token)

    def _sequence(self, row: int, ids: list[int]) -> list[int] | None:
        """The known sequence that begins with these ids."""
        found, length = self._found.get(row), len(ids)
        if found is None or found[length - 2 : length] != ids[-2:]:
            found = next((known for known in self._known if known[:length] == ids), None)
            if found is not None:
                self._found[row] = found
        return found


def _tokens(step: Step) -> list[tuple[int, int, int]]:
    """(row of the page table, position, id) of each token."""
    numbers = (each.tolist() for each in (step.seq_T, step.positions_T, step.ids_T))
    return list(zip(*numbers, strict=True))
