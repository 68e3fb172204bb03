"""Reads the attention worker's tensors, or one rank's rows of them.

Legend: D hidden, F inner width, H heads, C kv_lora_rank, R rope dims, N nope dims, U value dims, M positions.
Source: docs/longcat-flash.md, attention and tensor names.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from caracal_kernels import GateWeights, MlaWeights, pack_weights
from torch import Tensor

from services.attention_worker.model.ranks import ALONE, Ranks
from services.checkpoint.config import ModelConfig
from services.checkpoint.device import CPU
from services.checkpoint.ngram import TABLES_FOLDER
from services.checkpoint.reader import Checkpoint
from services.checkpoint.shared_tables import SharedTables
from services.checkpoint.staging import Staging
from services.checkpoint.tensors import attention_tensors

LORA_NORM_EPS = 1e-6  # Hugging Face builds q_a and kv_a norms with the class default, not with rms_norm_eps

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
        tables_folder: Path = TABLES_FOLDER,
    ) -> None:
        self.config: ModelConfig = checkpoint.config
        self.dtype, self.device = dtype, device
        self.staging = Staging(device)
        self.ranks = ranks
        self._checkpoint, self._tables_folder = checkpoint, tables_folder
        self._progress = progress
        self._total = sum(1 for _ in attention_tensors(checkpoint.config))
        self._done = 0

    def __call__(self, name: str, dtype: torch.dtype | None = None, rows: range | None = None) -> Tensor:
        tensor = self._checkpoint.tensor(name, dtype or self.dtype, self.staging, rows)
        self._done += 1
        self._progress(self._done, self._total)
        return tensor

    def matrix(self, name: str, dtype: torch.dtype | None = None, rows: range | None = None) -> Tensor:
        """A weight that rows are multiplied with, as the ops read it fastest: it may be packed."""
        return pack_weights(self(name, dtype, rows))

    def ngram_tables(self) -> SharedTables:
        """The n-gram tables, in host memory that the processes of this machine share."""
        return self._checkpoint.ngram_tables(self._tables_folder)

    def mla(self, layer: int, index: int, cos_sin_MR: Tensor) -> MlaWeights:
        """One MLA sublayer with its input norm: this rank's heads, and its rows of o_proj."""
        c, rows = self.config, self.ranks.shard.rows
        prefix = f"model.layers.{layer}.self_attn.{index}."
        nope, heads = c.qk_nope_head_dim, c.num_attention_heads
        kv_b = self(f"{prefix}kv_b_proj.weight", rows=rows(heads, nope + c.v_head_dim))
        w_uk_HNC, w_uv_HUC = torch.split(
            kv_b.view(-1, nope + c.v_head_dim, c.kv_lora_rank), [nope, c.v_head_dim], dim=1
        )
        return MlaWeights(
            norm_D=self(f"model.layers.{layer}.input_layernorm.{index}.weight"),
            q_a_QD=self.matrix(f"{prefix}q_a_proj.weight"),
            q_a_norm_Q=self(f"{prefix}q_a_layernorm.weight"),
            q_b_EQ=self.matrix(f"{prefix}q_b_proj.weight", rows=rows(heads, nope + c.qk_rope_head_dim)),
            kv_a_LD=self.matrix(f"{prefix}kv_a_proj_with_mqa.weight"),
            kv_a_norm_C=self(f"{prefix}kv_a_layernorm.weight"),
            w_uk_HCN=pack_weights(w_uk_HNC.transpose(1, 2).contiguous()),
            w_uv_HUC=pack_weights(w_uv_HUC.contiguous()),
            o_proj_DO=self.matrix(f"{prefix}o_proj.weight", rows=rows(c.hidden_size)),
            cos_sin_MR=cos_sin_MR,
            norm_eps=c.rms_norm_eps,
            lora_eps=LORA_NORM_EPS,
            q_scale=c.q_scale,
            kv_scale=c.kv_scale,
        )

    def mlp(self, layer: int, index: int) -> tuple[Tensor, Tensor]:
        """(gate and up rows in one [2F, D], down [D, F]) of a dense MLP."""
        prefix = f"model.layers.{layer}.mlps.{index}."
        inner, hidden = (self.ranks.shard.rows(n) for n in (self.config.ffn_hidden_size, self.config.hidden_size))
        gate_up = torch.cat([self(f"{prefix}{part}_proj.weight", rows=inner) for part in ("gate", "up")])
        return pack_weights(gate_up), self.matrix(f"{prefix}down_proj.weight", rows=hidden)

    def gate(self, layer: int) -> GateWeights:
        """The layer's router."""
        prefix = f"model.layers.{layer}.mlp.router."
        return GateWeights(
            self.matrix(f"{prefix}classifier.weight", torch.float32),
            self(f"{prefix}e_score_correction_bias", torch.float32),
        )
