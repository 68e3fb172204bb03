"""The transformer, top to bottom: everything of LongCat-Flash but the FFN experts.

Synchronous, and without a word about networks: `exchange` starts what leaves and the pending handle brings it home.
Legend: T tokens, D hidden, H heads, C kv_lora_rank, R rope dims, L = C + R, V value dims or vocabulary, B sampled rows.
Source: longcat-flash.md 1.1, 1.2, 7; arithmetic follows Hugging Face's LongcatFlashForCausalLM.
"""

from __future__ import annotations

import structlog
import torch
from caracal_kernels import mla_attention, mla_project, rms_norm
from torch import Tensor

from services.attention_worker.model.cuda_graphs import SegmentRunner, SegmentStep, Tensors, runner_for
from services.attention_worker.model.interfaces import DispatcherLike, GateWeights
from services.attention_worker.model.load import Load, Progress
from services.attention_worker.model.ranks import ALONE, Ranks
from services.attention_worker.model.step import Step
from services.checkpoint.config import ModelConfig
from services.checkpoint.device import CPU
from services.checkpoint.reader import Checkpoint

log = structlog.get_logger(__name__)

LORA_NORM_EPS = 1e-6  # Hugging Face builds q_a and kv_a norms with the class default, not with rms_norm_eps


class Attention:
    """One MLA sublayer with its input norm, in absorbed form for prefill and decode alike."""

    def __init__(self, load: Load, layer: int, index: int, cos_sin_PR: Tensor) -> None:
        config = load.config
        self._scale = (config.qk_nope_head_dim + config.qk_rope_head_dim) ** -0.5
        self._latent = config.kv_lora_rank
        self._ranks = load.ranks
        shard, heads = load.ranks.shard, config.num_attention_heads
        prefix = f"model.layers.{layer}.self_attn.{index}."
        nope, rope, values = config.qk_nope_head_dim, config.qk_rope_head_dim, config.v_head_dim
        kv_b = load(f"{prefix}kv_b_proj.weight", rows=shard.rows(heads, nope + values))
        w_uk, w_uv = torch.split(kv_b.view(-1, nope + values, config.kv_lora_rank), [nope, values], dim=1)
        self._w_uv_HVC = w_uv.contiguous()
        self._o_proj_DE = load(f"{prefix}o_proj.weight", rows=shard.rows(config.hidden_size))
        self._before = (
            load(f"model.layers.{layer}.input_layernorm.{index}.weight"),
            config.rms_norm_eps,
            load(f"{prefix}q_a_proj.weight"),
            load(f"{prefix}q_a_layernorm.weight"),
            load(f"{prefix}q_b_proj.weight", rows=shard.rows(heads, nope + rope)),
            load(f"{prefix}kv_a_proj_with_mqa.weight"),
            load(f"{prefix}kv_a_layernorm.weight"),
            w_uk.transpose(1, 2).contiguous(),
            cos_sin_PR,
        )
        self._after = (config.q_scale, config.kv_scale, LORA_NORM_EPS)

    def __call__(self, x_TD: Tensor, step: Step, cache_PBL: Tensor) -> Tensor:
        """x + MLA(in_norm(x))."""
        q_THL = mla_project(x_TD, *self._before, step.positions_T, step.slot_mapping_T, cache_PBL, *self._after)
        o_THC = mla_attention(
            q_THL, cache_PBL, step.page_table_SX, step.seq_T, step.positions_T, self._scale, self._latent
        )
        return self._ranks.attention_output(o_THC, self._w_uv_HVC, self._o_proj_DE, x_TD)


class Layer:
    """Two attentions, two dense MLPs, and the shortcut to the experts."""

    def __init__(self, load: Load, layer: int, cos_sin_PR: Tensor) -> None:
        prefix = f"model.layers.{layer}."
        self._index = layer
        self._ranks = load.ranks
        self._eps = load.config.rms_norm_eps
        self._attention = [Attention(load, layer, i, cos_sin_PR) for i in (0, 1)]
        self._post_norm_D = [load(f"{prefix}post_attention_layernorm.{i}.weight") for i in (0, 1)]
        self._mlp = [load.mlp(f"{prefix}mlps.{i}.") for i in (0, 1)]
        self._gate = GateWeights(
            load(f"{prefix}mlp.router.classifier.weight", torch.float32),
            load(f"{prefix}mlp.router.e_score_correction_bias", torch.float32),
        )

    def forward(self, x_TD: Tensor, run: SegmentStep, exchange: DispatcherLike) -> Tensor:
        x_TD, h_TD = run(self._to_the_gate, x_TD)
        moe = exchange.start(self._index, h_TD, self._gate, run.step)  # leaves for the expert workers
        (x_TD,) = run(self._meanwhile, x_TD, h_TD)
        return moe.finish(x_TD)  # and is home again

    def _to_the_gate(self, step: Step, caches: list[Tensor], x_TD: Tensor) -> Tensors:
        x_TD = self._attention[0](x_TD, step, caches[2 * self._index])
        return x_TD, rms_norm(x_TD, self._post_norm_D[0], self._eps)

    def _meanwhile(self, step: Step, caches: list[Tensor], x_TD: Tensor, h_TD: Tensor) -> Tensors:
        """What hides the round trip."""
        x_TD = self._ranks.mlp(h_TD, *self._mlp[0], x_TD)
        x_TD = self._attention[1](x_TD, step, caches[2 * self._index + 1])
        return (self._ranks.mlp(rms_norm(x_TD, self._post_norm_D[1], self._eps), *self._mlp[1], x_TD),)


class Model:
    """The attention worker's share of a checkpoint; of several ranks, one rank's.

    `runs` says how segments of steps are run: recorded on a GPU, unless ranks meet in them.
    """

    def __init__(self, load: Load, runs: SegmentRunner | None = None) -> None:
        config = load.config
        self._runs = runs or runner_for(load.device, load.ranks.shard.size)
        self.config = config
        self.dtype, self.device = load.dtype, load.device
        self._ranks = load.ranks
        self._embed_VD = load("model.embed_tokens.weight")
        cos_sin_PR = rope_table(config).to(load.device)
        self._layers = [Layer(load, layer, cos_sin_PR) for layer in range(config.num_layers)]
        self._norm_D = load("model.norm.weight")
        self._head_VD = load("lm_head.weight", rows=load.ranks.shard.rows(config.vocab_size))

    def new_cache(self, num_pages: int, page_size: int) -> list[Tensor]:
        """Two latent caches [pages, page_size, C + R] per layer; sublayer i of layer l is 2 l + i."""
        shape = (num_pages, page_size, self.config.latent)
        return [torch.zeros(shape, dtype=self.dtype, device=self.device) for _ in range(2 * self.config.num_layers)]

    def forward(self, step: Step, caches: list[Tensor], exchange: DispatcherLike) -> Tensor:
        """fp32 logits [B, V] of the step's sample rows; every token's latents are written to the caches."""
        run = self._runs.begin(step, caches)
        step = run.step
        # index_select, not x[rows]: that one wakes OpenMP's threads for a handful of rows.
        x_TD = self._embed_VD.index_select(0, step.ids_T)
        for layer in self._layers:
            x_TD = layer.forward(x_TD, run, exchange)
        x_BD = rms_norm(x_TD.index_select(0, step.sample_rows_B), self._norm_D, self.config.rms_norm_eps)
        return self._ranks.logits(x_BD, self._head_VD)


def rope_table(config: ModelConfig) -> Tensor:
    """[max positions, R] fp32: R/2 cosines, then R/2 sines, of the default rope."""
    half = torch.arange(0, config.qk_rope_head_dim, 2, dtype=torch.float32) / config.qk_rope_head_dim
    angle_PR = torch.outer(torch.arange(config.max_position_embeddings).float(), 1.0 / config.rope_theta**half)
    return torch.cat([angle_PR.cos(), angle_PR.sin()], dim=-1)


def load_model(
    checkpoint: Checkpoint,
    dtype: torch.dtype,
    progress: Progress,
    ranks: Ranks = ALONE,
    device: torch.device = CPU,
) -> Model:
    """Reads everything but the experts, or a rank's part of it. Raises CheckpointError naming file and tensor."""
    load = Load(checkpoint, dtype, progress, ranks, device)
    model = Model(load)
    rate = round(load.staging.gigabytes_per_second, 2)
    log.info("weights are read", bytes=load.staging.bytes, gigabytes_per_second=rate, device=str(device))
    return model
