"""The transformer, top to bottom: everything of LongCat-Flash but the FFN experts.

Synchronous, and without a word about networks: the dispatcher starts what leaves, its handle gives the result.
Legend: T tokens, D hidden, C kv_lora_rank, R rope dims, M positions of the rope table, B sampled rows, V vocabulary.
Source: docs/longcat-flash.md, layer; arithmetic follows Hugging Face's LongcatFlashForCausalLM.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import structlog
import torch
from caracal_kernels import rms_norm, row_width
from torch import Tensor

from services.attention_worker.model.cuda_graphs import (
    EagerRunner,
    SegmentRunner,
    SegmentStep,
    Tensors,
    runner_for,
)
from services.attention_worker.model.draft import Draft
from services.attention_worker.model.embedding import Embedding
from services.attention_worker.model.interfaces import DispatcherLike
from services.attention_worker.model.load import Load, Progress
from services.attention_worker.model.native_stack import HeadWeights, LayerWeights, NativeStack, Reached, unavailable
from services.attention_worker.model.ranks import ALONE, Ranks
from services.attention_worker.model.rope import rope_table
from services.attention_worker.model.step import Step
from services.attention_worker.model.sublayers import Attention, DenseMlp, Norm
from services.checkpoint.device import CPU
from services.checkpoint.ngram import TABLES_FOLDER, NgramConfig
from services.checkpoint.reader import Checkpoint
from services.checkpoint.tensors import head_name

log = structlog.get_logger(__name__)


class Layer:
    """Two attentions, two dense MLPs, and the shortcut to the experts."""

    def __init__(self, load: Load, layer: int, cos_sin_MR: Tensor) -> None:
        self._index = layer
        prefix, streaming = f"model.layers.{layer}.", load.config.streaming
        self._attention = [
            Attention(
                load,
                f"{prefix}input_layernorm.{i}.weight",
                f"{prefix}self_attn.{i}.",
                cos_sin_MR,
                sparse=streaming is not None and streaming.sparse[2 * layer + i],
            )
            for i in (0, 1)
        ]
        self._post_norm = [Norm(load, f"{prefix}post_attention_layernorm.{i}.weight") for i in (0, 1)]
        self._mlp = [DenseMlp(load, f"{prefix}mlps.{i}.") for i in (0, 1)]
        self._gate = load.gate(layer)
        self._norm_eps = load.config.rms_norm_eps

    @property
    def weights(self) -> LayerWeights:
        """What native code runs it from."""
        return LayerWeights(
            attention=[each.weights for each in self._attention],
            post_norm_D=[each.weight_D for each in self._post_norm],
            norm_eps=self._norm_eps,
            mlp=[each.weights for each in self._mlp],
            gate=self._gate,
        )

    def forward(self, x_TD: Tensor, run: SegmentStep, dispatcher: DispatcherLike) -> Tensor:
        x_TD, h_TD = run(self._attention_and_gate_norm, x_TD)
        moe = dispatcher.start(self._index, h_TD, self._gate, run.step)  # rows leave for the expert workers
        (x_TD,) = run(self._dense_path, x_TD, h_TD)  # the shortcut: hides the experts' round trip
        return moe.finish(x_TD)  # x + MoE(h)

    def _attention_and_gate_norm(self, step: Step, caches: list[Tensor], x_TD: Tensor) -> Tensors:
        x_TD = self._attention[0](x_TD, step, caches[2 * self._index])
        return x_TD, self._post_norm[0](x_TD)

    def _dense_path(self, step: Step, caches: list[Tensor], x_TD: Tensor, h_TD: Tensor) -> Tensors:
        x_TD = self._mlp[0](h_TD, x_TD)
        x_TD = self._attention[1](x_TD, step, caches[2 * self._index + 1])
        return (self._mlp[1](self._post_norm[1](x_TD), x_TD),)


class Model:
    """The attention worker's share of a checkpoint; with several ranks, one rank's.

    `runner` runs the dense segments of a step (`runner_for`). `kv_fp8`: latents are cached in fp8.
    """

    def __init__(self, load: Load, runner: SegmentRunner, *, kv_fp8: bool = False) -> None:
        config = load.config
        self._runner, self._kv_fp8 = runner, kv_fp8
        self.config = config
        self.dtype, self.device = load.dtype, load.device
        self._ranks = load.ranks
        self._embed = Embedding(load)
        cos_sin_MR = rope_table(config).to(load.device)
        self._layers = [Layer(load, layer, cos_sin_MR) for layer in range(config.num_layers)]
        self._norm_D = load("model.norm.weight")
        rows, word_VD = load.ranks.shard.rows(config.vocab_size), self._embed.word_VD
        tied = config.tie_word_embeddings
        self._head_VD = word_VD[rows.start : rows.stop] if tied else load.matrix(head_name(config), rows=rows)
        head = HeadWeights(norm_D=self._norm_D, norm_eps=config.rms_norm_eps, matrix_VD=self._head_VD)
        self._draft = Draft(load, word_VD, cos_sin_MR) if load.drafts else None
        self._native = _native_stack(load, self._layers, self._embed, head, self._draft)
        self._hidden_TD: Tensor | None = None  # what the head has read, as `draft` takes it

    @property
    def ngram(self) -> NgramConfig | None:
        """What the model's embedding needs of the ids before a token; None where it needs the token alone."""
        return self.config.ngram

    def parts(self) -> Iterator[tuple[str, object]]:
        """All weights, by the names of the parts they are in."""
        yield "the embedding", self._embed.weights
        for number, layer in enumerate(self._layers):
            yield f"layer {number} of the attention side", layer.weights
        yield "the head", (self._norm_D, self._head_VD)
        if self._draft is not None:
            yield "the draft", self._draft.weights

    @property
    def drafts(self) -> bool:
        """Whether it can guess tokens ahead."""
        return self._draft is not None

    def new_cache(self, num_pages: int, page_size: int) -> list[Tensor]:
        """Two latent caches [pages, page_size, C + R] per layer, in fp8 of bytes; sublayer i of layer l is 2 l + i.

        After them the draft's.
        """
        c, fp8 = self.config, self._kv_fp8
        shape = (num_pages, page_size, row_width(c.kv_lora_rank, c.qk_rope_head_dim, self.dtype, fp8=fp8))
        dtype = torch.uint8 if fp8 else self.dtype
        return [torch.zeros(shape, dtype=dtype, device=self.device) for _ in range(c.latent_caches(self.drafts))]

    def forward(self, step: Step, caches: list[Tensor], dispatcher: DispatcherLike) -> Tensor:
        """fp32 logits [B, V] of the step's sample rows; every token's latents are written to the caches."""
        if not len(step.ids_T):
            return torch.empty((0, self.config.vocab_size), device=self.device)
        observe = step.observe
        run = self._runner.begin(step, caches)
        step = run.step
        embeds = self._native is not None and self._native.embeds and observe is None
        at = Reached(0, None if embeds else self._embed(step))
        if observe is not None and at.x_TD is not None:
            observe(0, at.x_TD)
        while at.layer < len(self._layers):
            before = at
            if self._native is not None:
                at = self._native.run(at, step, caches, dispatcher)
            if at is before:
                x_TD = self._embed(step) if at.x_TD is None else at.x_TD
                at = Reached(at.layer + 1, self._layers[at.layer].forward(x_TD, run, dispatcher))
            if observe is not None and at is not before and at.x_TD is not None:
                observe(at.layer, at.x_TD)
        self._hidden_TD = at.hidden_TD
        if at.logits_BV is not None:
            return at.logits_BV
        assert at.x_TD is not None, "a model has layers"
        return self._head(at.x_TD, step)

    def in_parts(self, step: Step, caches: list[Tensor], dispatcher: DispatcherLike) -> Iterator[Tensor]:
        """What `forward` computes, a part at a time: rows [T, D] after the embedding, and after each layer; at last the
        logits [T, V]. Other steps may run between two parts; without graphs, since these belong to the engine's caches.
        """
        run = EagerRunner(self.device).begin(step, caches)
        x_TD = self._embed(run.step)
        yield x_TD
        for layer in self._layers:
            x_TD = layer.forward(x_TD, run, dispatcher)
            yield x_TD
        yield self._ranks.logits(rms_norm(x_TD, self._norm_D, self.config.rms_norm_eps), self._head_VD)

    def draft(self, step: Step, rows_T: Tensor, caches: list[Tensor]) -> Tensor:
        """fp32 logits [B, V] of the token after each of the step's `ids_T` that are sample rows.

        `rows_T`: which of the rows that the last call of `forward`, or of `draft`, made logits from; of `forward`, of
        all of its step's. Every row's latent is written to the draft's cache.
        """
        hidden_TD, draft = self._hidden_TD, self._draft
        assert draft is not None, "it does not draft"
        assert hidden_TD is not None, "it drafts after a step"
        if self._native is not None:
            logits_BV, self._hidden_TD = self._native.draft(step, hidden_TD.index_select(0, rows_T), caches[-1])
            return logits_BV
        step = step.to(self.device)
        self._hidden_TD = x_BD = draft(step, hidden_TD.index_select(0, rows_T.to(self.device)), caches[-1])
        return self._ranks.logits(x_BD, self._head_VD)

    def _head(self, x_TD: Tensor, step: Step) -> Tensor:
        rows_B, eps = step.sample_rows_B, self.config.rms_norm_eps
        if self._draft is None:
            return self._ranks.logits(rms_norm(x_TD.index_select(0, rows_B), self._norm_D, eps), self._head_VD)
        self._hidden_TD = rms_norm(x_TD, self._norm_D, eps)
        return self._ranks.logits(self._hidden_TD.index_select(0, rows_B), self._head_VD)


def _native_stack(
    load: Load, layers: list[Layer], embedding: Embedding, head: HeadWeights, draft: Draft | None
) -> NativeStack | None:
    """The layers for native code; None where it cannot run them."""
    if load.device.type != "cpu" or load.ranks.shard.size > 1:
        return None
    if why := unavailable():
        log.info("Python runs the layers", reason=why)
        return None
    word_VD = None if load.config.ngram else embedding.word_VD
    return NativeStack([layer.weights for layer in layers], word_VD, head, draft.weights if draft else None)


def load_model(
    checkpoint: Checkpoint,
    dtype: torch.dtype,
    progress: Progress,
    ranks: Ranks = ALONE,
    device: torch.device = CPU,
    tables_folder: Path = TABLES_FOLDER,
    *,
    kv_fp8: bool = False,
    drafts: bool = False,
) -> Model:
    """Reads everything but the experts, or a rank's part of it. Raises CheckpointError naming file and tensor.

    `tables_folder`: where the processes of this machine share n-gram tables. `drafts`: the draft as well.
    """
    load = Load(checkpoint, dtype, progress, ranks, device, tables_folder, drafts)
    model = Model(load, runner_for(load.device, load.ranks.shard.size), kv_fp8=kv_fp8)
    rate = round(load.staging.gigabytes_per_second, 2)
    log.info("weights are read", bytes=load.staging.bytes, gigabytes_per_second=rate, device=str(device))
    return model
