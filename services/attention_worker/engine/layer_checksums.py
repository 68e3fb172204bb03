"""Checksums of the rows that each layer gives, for the sequences that ask for them: it costs a call per row and layer.

Legend: T tokens of a step, D hidden, B bytes of a row.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator

import torch
from torch import Tensor

from services.attention_worker.engine.sequence import TokenOut
from services.attention_worker.engine.step_plan import Chunk


class LayerChecksums:
    """Takes the rows of one step, as `Step.observe` does."""

    def __init__(self, chunks: list[Chunk]) -> None:
        self._rows: list[tuple[Chunk, range]] = []
        token = 0
        for chunk in chunks:
            if chunk.sequence.request.layer_checksums:
                self._rows.append((chunk, range(token, token + chunk.length)))
            token += chunk.length
        self._checksums: dict[int, list[list[int]]] = {}  # by number of the layer: each sequence's rows

    def take(self, number: int, x_TD: Tensor) -> None:
        """`number`: 0 after the embedding, then 1 after the first layer."""
        bytes_TB = x_TD.cpu().contiguous().view(torch.uint8).numpy()
        self._checksums[number] = [[zlib.crc32(bytes_TB[row]) for row in rows] for _, rows in self._rows]

    def tokens(self, kept: dict[int, int]) -> Iterator[tuple[Chunk, list[TokenOut]]]:
        """Yields what to deliver, once the step's tokens are known.

        `kept`: how many rows of a sequence that sampled are of it; those of wrong drafts are not.
        """
        found = [self._checksums[number] for number in sorted(self._checksums)]
        for index, (chunk, _) in enumerate(self._rows):
            count = kept.get(chunk.sequence.key, chunk.length)
            rows = zip(*(each[index][:count] for each in found), strict=True)
            places = range(chunk.start, chunk.start + count)
            ids = chunk.sequence.ids
            yield chunk, [TokenOut(place, ids[place], 0, layers=row) for place, row in zip(places, rows, strict=True)]
