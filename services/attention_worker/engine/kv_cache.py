"""The paged latent cache: two tensors per layer, each with `kv_lora_rank + qk_rope_head_dim` values per token.

`pages.PagePool` decides which page belongs to which sequence.
Legend: S rows of the page table, X pages of a row.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from services.attention_worker.engine.pages import PagePool


class MakesCache(Protocol):
    """What the cache needs of a model."""

    def new_cache(self, num_pages: int, page_size: int) -> list[Tensor]: ...


class KvCache:
    """The page pool, the cache tensors, and the page table as a tensor that shares the pool's memory."""

    def __init__(self, model: MakesCache, num_pages: int, page_size: int, rows: int, max_length: int) -> None:
        self.pages = PagePool(num_pages, page_size, rows, max_length)
        self.tensors = model.new_cache(num_pages, page_size)
        self.page_table_SX = torch.from_numpy(self.pages.table_SX)

    @property
    def bytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors)
