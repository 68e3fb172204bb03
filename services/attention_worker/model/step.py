"""The input of one forward pass: the tokens of many sequences, concatenated.

Legend: T tokens, N ids of the longest n-gram, S rows of the page table, X pages of a row, B tokens whose logits are
wanted, M pages to copy, R pages of B bytes that another worker has sent.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """The tokens to run, and where their latents are in the cache: at the same place in every sublayer's cache."""

    number: int
    ids_T: Tensor  # int64
    positions_T: Tensor  # int32, absolute
    seq_T: Tensor  # int32, each token's row of the page table
    slot_mapping_T: Tensor  # int32, where the token's latent is written: page * page_size + offset
    page_table_SX: Tensor  # int32, -1 padded
    sample_rows_B: Tensor  # int64, indices into T
    # int64, on the host: each token and the ids before it that its n-grams reach; [T, 0] for models without n-grams.
    context_TN: Tensor
    # int32, on the host: pages that are copied to host memory, or from elsewhere, before anything is computed.
    moves_M3: Tensor = field(default_factory=lambda: torch.empty((0, 3), dtype=torch.int32))
    # For debugging: called with the rows [T, D] after the embedding as number 0, then with those after each layer.
    observe: Callable[[int, Tensor], None] | None = None
    # uint8, on the host: what some of these copies are made of.
    received_RB: Tensor = field(default_factory=lambda: torch.empty((0, 0), dtype=torch.uint8))

    @property
    def pages(self) -> int:
        """How many columns of the page table are in use: rows are filled from the left."""
        return int((self.page_table_SX >= 0).any(0).sum())

    def to(self, device: torch.device) -> Step:
        """The step on another device, without the page table's unused columns; on the same device, the step itself."""
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
            context_TN=self.context_TN,
            moves_M3=self.moves_M3,
            observe=self.observe,
            received_RB=self.received_RB,
        )
