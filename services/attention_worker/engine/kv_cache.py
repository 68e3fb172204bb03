"""The paged latent cache: two tensors per layer, each with `kv_lora_rank + qk_rope_head_dim` values per token; and its
second tier in host memory.

`pages.PagePool` decides which page belongs to which sequence.
Legend: S rows of the page table, X pages of a row, P pages of I positions, L values of a latent, H places in host
memory, M copies: page, place and kind; R pages that another worker has sent, of B bytes each: all caches one after the
other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor

from services.attention_worker.engine.host_tier import IN, OUT
from services.attention_worker.engine.pages import PagePool
from services.checkpoint.scrub import memory_checksum


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
        self.page_bytes = sum(each[0].nbytes for each in tensors)  # of one page in all caches

    def copy(self, moves_M3: Tensor, received_RB: Tensor) -> None:
        """Makes the copies in their order. Those that follow one another and are of one kind are made at once."""
        for kind, pages, places in _runs(moves_M3.tolist()):
            pages_M, places_M = torch.tensor(pages), torch.tensor(places)
            for index, tensor_PIL in enumerate(self._tensors):
                on_device_M = pages_M.to(tensor_PIL.device)
                if kind == OUT:
                    self._host[index][places_M] = tensor_PIL[on_device_M].cpu()
                elif kind == IN:
                    tensor_PIL[on_device_M] = self._host[index][places_M].to(tensor_PIL.device)
                else:
                    tensor_PIL[on_device_M] = self._part(received_RB, places_M, index).to(tensor_PIL.device)

    def rows_of(self, received: Sequence[bytes]) -> Tensor:
        """uint8 [R, B]: pages that another worker has sent, as `copy` takes them."""
        rows_RB = torch.empty((len(received), self.page_bytes), dtype=torch.uint8)
        for row_B, latents in zip(rows_RB, received, strict=True):
            row_B.copy_(torch.frombuffer(bytearray(latents), dtype=torch.uint8))
        return rows_RB

    def read(self, held: Sequence[tuple[int, bool]]) -> Tensor:
        """uint8 [R, B], on the host: what `PagePool.held` has found."""
        found_RB = torch.empty((len(held), self.page_bytes), dtype=torch.uint8)
        for in_host, tensors in ((False, self._tensors), (True, self._host)):
            rows = [row for row, (_, of_host) in enumerate(held) if of_host is in_host]
            if rows:
                pages_M = torch.tensor([held[row][0] for row in rows], device=tensors[0].device)
                parts = [each[pages_M].contiguous().view(torch.uint8).flatten(1) for each in tensors]
                found_RB[torch.tensor(rows)] = torch.cat(parts, 1).cpu()
        return found_RB

    def _part(self, received_RB: Tensor, places_M: Tensor, index: int) -> Tensor:
        """What was received for one of the caches."""
        start = sum(each[0].nbytes for each in self._tensors[:index])
        like_PIL = self._tensors[index]
        part_MB = received_RB[:, start : start + like_PIL[0].nbytes][places_M]
        return part_MB.contiguous().view(like_PIL.dtype).view(len(places_M), *like_PIL.shape[1:])


def _runs(moves: list[list[int]]) -> Iterator[tuple[int, list[int], list[int]]]:
    """Copies of one kind, of different pages and places: (kind, pages, places)."""
    kind, pages, places = IN, list[int](), list[int]()
    for page, place, this_kind in moves:
        if pages and (this_kind != kind or page in pages or place in places):
            yield kind, pages, places
            pages, places = [], []
        kind = this_kind
        pages.append(page)
        places.append(place)
    if pages:
        yield kind, pages, places


class KvCache:
    """The page pool, the cache tensors, and the page table as a tensor that shares the pool's memory."""

    def __init__(
        self, model: MakesCache, num_pages: int, page_size: int, rows: int, max_length: int, host_pages: int = 0
    ) -> None:
        self.pages = PagePool(num_pages, page_size, rows, max_length, host_pages)
        self.tensors = model.new_cache(num_pages, page_size)
        self.host = HostPages(self.tensors, host_pages)
        self.page_table_SX = torch.from_numpy(self.pages.table_SX)

    def check_pages(self, draft: bool) -> None:
        """Has pages compared when they are used again, in host memory; but for the cache of a draft, the last one.

        The draft writes to it later than a page is published, and decides no token.
        """
        checked = self.tensors[: len(self.tensors) - draft]
        if checked[0].device.type == "cpu":
            self.pages.check_with(lambda page: memory_checksum(each[page] for each in checked))

    @property
    def bytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors)
