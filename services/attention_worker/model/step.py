"""One forward pass's input: a flat run of tokens of many sequences.

Legend: T tokens, S rows of the page table, X pages a row may hold, B tokens whose logits are wanted.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What to run. Cache slots are page * page_size + offset, the same in every sublayer's cache."""

    number: int
    ids_T: Tensor  # int64
    positions_T: Tensor  # int32, absolute
    seq_T: Tensor  # int32, each token's row of the page table
    slot_mapping_T: Tensor  # int32, where the token's latent is written
    page_table_SX: Tensor  # int32, -1 padded
    sample_rows_B: Tensor  # int64, indices into T

    @property
    def pages(self) -> int:
        """Columns of the page table that are in use: rows fill up from the left."""
        return int((self.page_table_SX >= 0).any(0).sum())

    def to(self, device: torch.device) -> Step:
        """The same step on a device, without the page table's unused columns; itself where it lies there already."""
        if self.ids_T.device == device:
            return self
        return Step(
            number=self.number,
            ids_T=self.ids_T.to(device),
            positions_T=self.positions_T.to(device),
            seq_T=self.seq_T.to(device),
            slot_mapping_T=self.slot_mapping_T.to(device),
            page_table_SX=self.page_table_SX[:, : self.pages].to(device),
            sample_rows_B=self.sample_rows_B.to(device),
        )
