"""How one layer's dense work is shared by the ranks of a worker; alone, a worker is its only rank.

Every product is cut by its output rows and summed over its whole depth on one rank; what the next one needs whole is
gathered. So no sum is ever split, and the bits are those of one rank (docs/decisions/0007).

Legend: T rows, D hidden, H this rank's heads, C kv_lora_rank, U value dims of a head, O value dims of all ranks' heads,
F inner width, B sampled rows, V vocabulary, K inputs of a product. Weights are this rank's rows: o_proj_DO, down_DF and
w_DK have part of D, head_VD has part of V.
"""

from __future__ import annotations

from typing import Protocol

import torch
from caracal_kernels import linear, mla_output, mla_values, swiglu, swiglu_inner
from torch import Tensor

from services.attention_worker.model.shard import Shard

WHOLE = Shard()


class Ranks(Protocol):
    """What of a layer depends on how many ranks there are."""

    @property
    def shard(self) -> Shard: ...

    def attention_output(self, o_THC: Tensor, w_uv_HUC: Tensor, o_proj_DO: Tensor, x_TD: Tensor) -> Tensor:
        """x + o_proj(values of all heads), whole on every rank."""
        ...

    def mlp(self, h_TD: Tensor, gate_up_2FD: Tensor, down_DF: Tensor, x_TD: Tensor) -> Tensor:
        """x + mlp(h), whole on every rank."""
        ...

    def project(self, x_TK: Tensor, w_DK: Tensor) -> Tensor:
        """w x, [T, D], whole on every rank."""
        ...

    def logits(self, x_BD: Tensor, head_VD: Tensor) -> Tensor:
        """fp32 [B, vocabulary]."""
        ...


class OneRank:
    """A worker by itself."""

    shard = WHOLE

    def attention_output(self, o_THC: Tensor, w_uv_HUC: Tensor, o_proj_DO: Tensor, x_TD: Tensor) -> Tensor:
        return mla_output(o_THC, w_uv_HUC, o_proj_DO, x_TD)

    def mlp(self, h_TD: Tensor, gate_up_2FD: Tensor, down_DF: Tensor, x_TD: Tensor) -> Tensor:
        return swiglu(h_TD, gate_up_2FD, down_DF, x_TD)

    def project(self, x_TK: Tensor, w_DK: Tensor) -> Tensor:
        return linear(x_TK, w_DK)

    def logits(self, x_BD: Tensor, head_VD: Tensor) -> Tensor:
        return linear(x_BD, head_VD, None, torch.float32)


ALONE = OneRank()


class Gathers(Protocol):
    """What a rank needs of the others."""

    def gather(self, part: Tensor, width: int) -> Tensor:
        """[rows, width] from every rank's columns, in the order of the ranks. The call is collective."""
        ...


class SharedRanks:
    """One of several ranks. Every call is collective: all ranks make the same calls in the same order."""

    def __init__(
        self, shard: Shard, group: Gathers, *, hidden: int, heads_width: int, inner: int, vocabulary: int
    ) -> None:
        self.shard = shard
        self._group = group
        self._hidden, self._heads_width, self._inner, self._vocabulary = hidden, heads_width, inner, vocabulary

    def attention_output(self, o_THC: Tensor, w_uv_HUC: Tensor, o_proj_DO: Tensor, x_TD: Tensor) -> Tensor:
        v_TE = self._group.gather(mla_values(o_THC, w_uv_HUC), self._heads_width)
        return self._down(v_TE, o_proj_DO, x_TD)

    def mlp(self, h_TD: Tensor, gate_up_2FD: Tensor, down_DF: Tensor, x_TD: Tensor) -> Tensor:
        a_TF = self._group.gather(swiglu_inner(h_TD, gate_up_2FD), self._inner)
        return self._down(a_TF, down_DF, x_TD)

    def project(self, x_TK: Tensor, w_DK: Tensor) -> Tensor:
        return self._group.gather(linear(x_TK, w_DK), self._hidden)

    def logits(self, x_BD: Tensor, head_VD: Tensor) -> Tensor:
        return self._group.gather(linear(x_BD, head_VD, None, torch.float32), self._vocabulary)

    def _down(self, a_TK: Tensor, w_DK: Tensor, x_TD: Tensor) -> Tensor:
        """x + w a, of which this rank computes its own columns."""
        mine = self.shard.rows(self._hidden)
        y_TD = linear(a_TK, w_DK, x_TD[:, mine.start : mine.stop].contiguous())
        return self._group.gather(y_TD, self._hidden)
