"""The draft of multi-token prediction: one dense block that guesses the token after the next one.

It reads the rows that the head reads, and the token after each. Embedding and head are the model's; of a model with
n-grams, the word table alone. What it guesses decides no token: a guess is used only where it equals the token drawn.
Legend: T tokens, D hidden, B of them whose guesses are wanted, V vocabulary, P pages of I positions, L values of a
latent.
Source: docs/longcat-flash.md, multi-token prediction.
"""

from __future__ import annotations

import torch
from torch import Tensor

from services.attention_worker.model.load import Load
from services.attention_worker.model.native_stack import DraftWeights
from services.attention_worker.model.step import Step
from services.attention_worker.model.sublayers import Attention, DenseMlp, Norm
from services.checkpoint.tensors import DRAFT, DRAFT_LAYER


class Draft:
    """The block with its norms. `word_VD` is the table in which tokens are looked up."""

    def __init__(self, load: Load, word_VD: Tensor, cos_sin_MR: Tensor) -> None:
        self._word_VD, self._ranks = word_VD, load.ranks
        self._token_norm = Norm(load, f"{DRAFT_LAYER}enorm.m.weight")
        self._hidden_norm = Norm(load, f"{DRAFT_LAYER}hnorm.m.weight")
        rows = load.ranks.shard.rows(load.config.hidden_size)
        self._join_DK = load.matrix(f"{DRAFT_LAYER}eh_proj.weight", rows=rows)
        norm, prefix = f"{DRAFT_LAYER}input_layernorm.weight", f"{DRAFT_LAYER}self_attn."
        self._attention = Attention(load, norm, prefix, cos_sin_MR, sparse=True)
        self._post_norm = Norm(load, f"{DRAFT_LAYER}post_attention_layernorm.weight")
        self._mlp = DenseMlp(load, f"{DRAFT_LAYER}transformer_layer.mlp.")
        self._norm = Norm(load, f"{DRAFT}norm.weight")

    @property
    def weights(self) -> DraftWeights:
        """What native code runs it from."""
        return DraftWeights(
            word_VD=self._word_VD,
            token_norm_D=self._token_norm.weight_D,
            hidden_norm_D=self._hidden_norm.weight_D,
            join_DK=self._join_DK,
            attention=self._attention.weights,
            post_norm_D=self._post_norm.weight_D,
            mlp=self._mlp.weights,
            norm_D=self._norm.weight_D,
            norm_eps=self._norm.eps,
        )

    def __call__(self, step: Step, hidden_TD: Tensor, cache_PIL: Tensor) -> Tensor:
        """What the head reads for the step's sample rows, [B, D]; writes every row's latent to the cache.

        `hidden_TD` has the rows at the step's positions, its `ids_T` the token after each.
        """
        token_TD = self._token_norm(self._word_VD.index_select(0, step.ids_T))
        u_TD = self._ranks.project(torch.cat([token_TD, self._hidden_norm(hidden_TD)], dim=1), self._join_DK)
        x_BD = self._attention.wanted(u_TD, step, cache_PIL)
        if not len(x_BD):
            return x_BD
        return self._norm(self._mlp(self._post_norm(x_BD), x_BD))
