"""The paged latent cache: two tensors per layer, each with `kv_lora_rank + qk_rope_head_dim` values per token; and its
second tier in host memory.

`pages.PagePool` decides which page belongs to which sequence.
Legend: S rows of the page table, X pages of a row, P pages of I positions, L values of a latent, H places in host
memory, M copies: page, place, and 1 for out or 0 for in.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor

from services.attention_worker.engine.pages import PagePool


class MakesCache(Protocol):
    """What the cache needs of a model."""

    def new_cache(self, num_pages: int, page_size: int) -> list[Tensor]: ...


class HostPages:
    """Places for pages in host memory, one tensor [H, I, L] for each of the cache's [P, I, L]; pinned beside a GPU."""

    def __init__(self, tensors: Sequence[Tensor], places: int) -> None:
        self._tensors = tensors
        self._host = [
            torch.empty((places, *each.shape[1:]), dtype=each.dtype, pin_memory=each.is_cuda and places > 0)
            for each in tensors
        ]

    def copy(self, moves_M3: Tensor) -> None:
        """Makes the copies in their order. Those that follow one another in one direction are made at once."""
        for out, pages, places in _runs(moves_M3.tolist()):
            pages_M, places_M = torch.tensor(pages), torch.tensor(places)
            for tensor_PIL, host_HIL in zip(self._tensors, self._host, strict=True):
                if out:
                    host_HIL[places_M] = tensor_PIL[pages_M.to(tensor_PIL.device)].cpu()
                else:
                    tensor_PIL[pages_M.to(tensor_PIL.device)] = host_HIL[places_M].to(tensor_PIL.device)


def _runs(moves: list[list[int]]) -> Iterator[tuple[bool, list[int], list[int]]]:
    """Copies in one direction, of different pages and places: (out, pages, places)."""
    out, pages, places = False, list[int](), list[int]()
    for page, place, goes_out in moves:
        if pages and (bool(goes_out) != out or page in pages or place in places):
            yield out, pages, places
            pages, places = [], []
        out = bool(goes_out)
        pages.append(page)
        places.append(place)
    if pages:
        yield out, pages, places


class KvCache:
    """The page pool, the cache tensors, and the page table as a tensor that shares the pool's memory."""

    def __init__(
        self, model: MakesCache, num_pages: int, page_size: int, rows: int, max_length: int, host_pages: int = 0
    ) -> None:
        self.pages = PagePool(num_pages, page_size, rows, max_length, host_pages)
        self.tensors = model.new_cache(num_pages, page_size)
        self.host = HostPages(self.tensors, host_pages)
        self.page_table_SX = torch.from_numpy(self.pages.table_SX)

    @property
    def bytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors)
