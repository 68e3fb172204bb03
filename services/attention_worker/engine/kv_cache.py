"""The paged latent cache: two tensors a layer, `kv_lora_rank + qk_rope_head_dim` values a token each, nothing more.

Which page belongs to whom is `pages.PagePool`'s business; here are the tensors that it numbers.
Legend: S rows of the page table, X pages a row may hold.
"""

from __future__ import annotations

from random import Random
from typing import Protocol

import torch
from torch import Tensor

from services.attention_worker.engine.pages import PagePool


class MakesCache(Protocol):
    """What of the model the cache needs."""

    def new_cache(self, num_pages: int, page_size: int) -> list[Tensor]: ...


class KvCache:
    """The pool, the tensors it numbers, and the page table as a tensor over the pool's own memory."""

    def __init__(
        self,
        model: MakesCache,
        num_pages: int,
        page_size: int,
        rows: int,
        max_length: int,
        shuffle: Random | None = None,
    ) -> None:
        self.pages = PagePool(num_pages, page_size, rows, max_length, shuffle)
        self.tensors = model.new_cache(num_pages, page_size)
        self.page_table_SX = torch.from_numpy(self.pages.table_SX)

    @property
    def bytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors)
