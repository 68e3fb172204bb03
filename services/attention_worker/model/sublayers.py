"""The parts that layers are made of: attention, dense MLP and norm. Arithmetic follows Hugging Face's LongcatFlash.

Legend: T tokens, D hidden, H heads, C kv_lora_rank, L = C + rope dims, P pages of I positions, M positions of the rope
table, B tokens whose output is wanted.
"""

from __future__ import annotations

from caracal_kernels import mla_attention, mla_project, rms_norm
from torch import Tensor

from services.attention_worker.model.load import Load
from services.attention_worker.model.native_stack import AttentionWeights
from services.attention_worker.model.step import Step


class Attention:
    """One MLA sublayer with its input norm, in absorbed form for prefill and decode alike.

    `sparse`: whether it is one of those that streaming-sparse attention leaves part of the keys out of.
    """

    def __init__(self, load: Load, norm: str, prefix: str, cos_sin_MR: Tensor, sparse: bool) -> None:
        config = load.config
        self._weights = load.mla(norm, prefix, cos_sin_MR)
        self._scale = config.softmax_scale
        self._latent = config.kv_lora_rank
        streaming = config.streaming
        self._blocks = (streaming.sink_blocks, streaming.recent_blocks) if streaming and sparse else (0, 0)
        self._ranks = load.ranks

    @property
    def weights(self) -> AttentionWeights:
        """What native code runs it from."""
        return AttentionWeights(mla=self._weights, scale=self._scale, latent=self._latent, blocks=self._blocks)

    def __call__(self, x_TD: Tensor, step: Step, cache_PIL: Tensor) -> Tensor:
        """x + MLA(norm(x)); writes the rows' latents to the cache."""
        q_THL = mla_project(x_TD, self._weights, step.positions_T, step.slot_mapping_T, cache_PIL)
        return self._attend(x_TD, q_THL, step.seq_T, step.positions_T, step, cache_PIL)

    def wanted(self, x_TD: Tensor, step: Step, cache_PIL: Tensor) -> Tensor:
        """The same [B, D] for the step's sample rows alone; writes every row's latent."""
        q_THL = mla_project(x_TD, self._weights, step.positions_T, step.slot_mapping_T, cache_PIL)
        rows_B = step.sample_rows_B
        if not len(rows_B):
            return x_TD[:0]
        x_BD, q_BHL, seq_B, positions_B = (
            each.index_select(0, rows_B) for each in (x_TD, q_THL, step.seq_T, step.positions_T)
        )
        return self._attend(x_BD, q_BHL, seq_B, positions_B, step, cache_PIL)

    def _attend(
        self, x_TD: Tensor, q_THL: Tensor, seq_T: Tensor, positions_T: Tensor, step: Step, cache_PIL: Tensor
    ) -> Tensor:
        w = self._weights
        o_THC = mla_attention(
            q_THL, cache_PIL, step.page_table_SX, seq_T, positions_T, self._scale, self._latent, *self._blocks
        )
        return self._ranks.attention_output(o_THC, w.w_uv_HUC, w.o_proj_DO, x_TD)


class DenseMlp:
    """One SwiGLU MLP, without a norm."""

    def __init__(self, load: Load, prefix: str) -> None:
        self.weights = load.mlp(prefix)  # gate_up_2FD, down_DF
        self._ranks = load.ranks

    def __call__(self, h_TD: Tensor, x_TD: Tensor) -> Tensor:
        """x + MLP(h)."""
        return self._ranks.mlp(h_TD, *self.weights, x_TD)


class Norm:
    """One RMSNorm."""

    def __init__(self, load: Load, name: str) -> None:
        self.weight_D, self.eps = load(name), load.config.rms_norm_eps

    def __call__(self, x_TD: Tensor) -> Tensor:
        return rms_norm(x_TD, self.weight_D, self.eps)
