"""Reads the attention worker's tensors, or one rank's rows of them.

Legend: D hidden, F inner width, H heads, C kv_lora_rank, R rope dims, N nope dims, U value dims, M positions.
Source: docs/longcat-flash.md, attention and tensor names.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from caracal_kernels import FP8_OUTPUTS, GateWeights, MlaWeights, pack_fp8, pack_weights
from torch import Tensor

from services.attention_worker.model.ranks import ALONE, Ranks
from services.checkpoint.config import ModelConfig
from services.checkpoint.device import CPU
from services.checkpoint.ngram import TABLES_FOLDER
from services.checkpoint.packing import load_packed, read_fp8, stays_fp8
from services.checkpoint.quantization import BLOCK
from services.checkpoint.reader import Checkpoint
from services.checkpoint.shared_tables import SharedTables
from services.checkpoint.staging import Staging
from services.checkpoint.tensors import attention_tensors, draft_tensors

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
        drafts: bool = False,
    ) -> None:
        self.drafts = drafts
        self.config: ModelConfig = checkpoint.config
        self.dtype, self.device = dtype, device
        self.staging = Staging(device)
        self.ranks = ranks
        self._checkpoint, self._tables_folder = checkpoint, tables_folder
        self._progress = progress
        wanted = (attention_tensors, draft_tensors) if drafts else (attention_tensors,)
        self._total = sum(1 for names in wanted for _ in names(checkpoint.config))
        self._done = 0

    def __call__(self, name: str, dtype: torch.dtype | None = None, rows: range | None = None) -> Tensor:
        tensor = self._checkpoint.tensor(name, dtype or self.dtype, self.staging, rows)
        self._count()
        return tensor

    def matrix(self, *names: str, dtype: torch.dtype | None = None, rows: range | None = None) -> Tensor:
        """A weight that rows are multiplied with, as the ops read it fastest: it may be packed, and in fp8.

        Of several names the outputs of all, in their order.
        """
        weight = load_packed(self._checkpoint, names, dtype or self.dtype, self.staging, rows)
        for _ in names:
            self._count()
        return weight

    def _count(self) -> None:
        self._done += 1
        self._progress(self._done, self._total)

    def ngram_tables(self) -> SharedTables:
        """The n-gram tables, in host memory that the processes of this machine share."""
        return self._checkpoint.ngram_tables(self._tables_folder)

    def mla(self, norm: str, prefix: str, cos_sin_MR: Tensor) -> MlaWeights:
        """One MLA sublayer with its input norm: this rank's heads, and its rows of o_proj."""
        c, rows = self.config, self.ranks.shard.rows
        nope, heads = c.qk_nope_head_dim, c.num_attention_heads
        w_uk_HCN, w_uv_HUC = self._kv_b(f"{prefix}kv_b_proj.weight", rows(heads, nope + c.v_head_dim))
        return MlaWeights(
            norm_D=self(norm),
            q_a_QD=self.matrix(f"{prefix}q_a_proj.weight"),
            q_a_norm_Q=self(f"{prefix}q_a_layernorm.weight"),
            q_b_EQ=self.matrix(f"{prefix}q_b_proj.weight", rows=rows(heads, nope + c.qk_rope_head_dim)),
            kv_a_LD=self.matrix(f"{prefix}kv_a_proj_with_mqa.weight"),
            kv_a_norm_C=self(f"{prefix}kv_a_layernorm.weight"),
            w_uk_HCN=w_uk_HCN,
            w_uv_HUC=w_uv_HUC,
            o_proj_DO=self.matrix(f"{prefix}o_proj.weight", rows=rows(c.hidden_size)),
            cos_sin_MR=cos_sin_MR,
            norm_eps=c.rms_norm_eps,
            lora_eps=LORA_NORM_EPS,
            q_scale=c.q_scale,
            kv_scale=c.kv_scale,
        )

    def _kv_b(self, name: str, rows: range) -> tuple[Tensor, Tensor]:
        """(key half, transposed per head [H, C, N]; value half [H, U, C]), packed.

        In fp8 if every half is of whole blocks: then a block transposed is a block with the same scale.
        """
        c = self.config
        nope, value = c.qk_nope_head_dim, c.v_head_dim
        whole = not (nope % BLOCK or (nope + value) % BLOCK or c.kv_lora_rank % BLOCK)
        if not (whole and stays_fp8(self._checkpoint, name, self.dtype, self.staging, rows)):
            kv_b_HEC = self(name, rows=rows).view(-1, nope + value, c.kv_lora_rank)
            keys_HNC, values_HUC = kv_b_HEC.split([nope, value], dim=1)
            return pack_weights(keys_HNC.transpose(1, 2).contiguous()), pack_weights(values_HUC.contiguous())
        weight, scale = read_fp8(self._checkpoint, name, self.dtype, self.staging, rows)
        self._count()
        kv_b_HEC = weight.view(-1, nope + value, c.kv_lora_rank)
        scale_Hec = scale.view(len(kv_b_HEC), -1, c.kv_lora_rank // BLOCK)
        each = BLOCK // FP8_OUTPUTS  # scales of a block, all alike
        key_scale_Hcn = scale_Hec[:, : nope // FP8_OUTPUTS : each].transpose(1, 2).repeat_interleave(each, dim=1)
        keys_HCN = kv_b_HEC[:, :nope].transpose(1, 2)
        values = kv_b_HEC[:, nope:].contiguous(), scale_Hec[:, nope // FP8_OUTPUTS :].contiguous()
        return pack_fp8(keys_HCN.contiguous(), key_scale_Hcn.contiguous()), pack_fp8(*values)

    def mlp(self, prefix: str) -> tuple[Tensor, Tensor]:
        """(gate and up rows in one [2F, D], down [D, F]) of a dense MLP."""
        inner, hidden = (self.ranks.shard.rows(n) for n in (self.config.ffn_hidden_size, self.config.hidden_size))
        gate_up_2FD = self.matrix(f"{prefix}gate_proj.weight", f"{prefix}up_proj.weight", rows=inner)
        return gate_up_2FD, self.matrix(f"{prefix}down_proj.weight", rows=hidden)

    def gate(self, layer: int) -> GateWeights:
        """The layer's router."""
        prefix = f"model.layers.{layer}.mlp.router."
        return GateWeights(
            self.matrix(f"{prefix}classifier.weight", dtype=torch.float32),
            self(f"{prefix}e_score_correction_bias", torch.float32),
        )
