"""Reads the attention worker's tensors, or one rank's rows of them. Legend: D hidden, F inner width."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from services.attention_worker.model.ranks import ALONE, Ranks
from services.checkpoint.config import ModelConfig
from services.checkpoint.device import CPU
from services.checkpoint.reader import Checkpoint
from services.checkpoint.staging import Staging
from services.checkpoint.tensors import attention_tensors

Progress = Callable[[int, int], None]


class Load:
    """Reads tensors, or a rank's rows of them, in the model's dtype, counting them for the progress report."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        dtype: torch.dtype,
        progress: Progress,
        ranks: Ranks = ALONE,
        device: torch.device = CPU,
    ) -> None:
        self.config: ModelConfig = checkpoint.config
        self.dtype, self.device = dtype, device
        self.staging = Staging(device)
        self.ranks = ranks
        self._checkpoint = checkpoint
        self._progress = progress
        self._total = sum(1 for _ in attention_tensors(checkpoint.config))
        self._done = 0

    def __call__(self, name: str, dtype: torch.dtype | None = None, rows: range | None = None) -> Tensor:
        tensor = self._checkpoint.tensor(name, dtype or self.dtype, self.staging, rows)
        self._done += 1
        self._progress(self._done, self._total)
        return tensor

    def mlp(self, prefix: str) -> tuple[Tensor, Tensor]:
        """(gate and up rows in one [2F, D], down [D, F])."""
        inner, hidden = (self.ranks.shard.rows(n) for n in (self.config.ffn_hidden_size, self.config.hidden_size))
        gate_up = torch.cat([self(f"{prefix}{part}_proj.weight", rows=inner) for part in ("gate", "up")])
        return gate_up, self(f"{prefix}down_proj.weight", rows=hidden)
