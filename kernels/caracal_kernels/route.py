"""The gate. Legend: T tokens, D hidden, G gate outputs (FFN experts, then zero experts), K choices.

Source: docs/longcat-flash.md, router. The bias chooses and does not weigh; zero experts' weights carry the scale too.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from caracal_kernels.linear import accumulate_reference
from caracal_kernels.registry import define_op

Route = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True, slots=True)
class GateWeights:
    """One layer's gate, fp32."""

    classifier_GD: Tensor
    bias_G: Tensor


@dataclass(frozen=True, slots=True)
class GateConfig:
    """How every layer's gate chooses. Ids from `num_ffn` on are zero experts."""

    top_k: int
    num_ffn: int
    scale: float
    norm_topk: bool


def route_reference(
    h_TD: Tensor, classifier_GD: Tensor, bias_G: Tensor, top_k: int, num_ffn: int, scale: float, norm_topk: bool = False
) -> Route:
    """(ids [T, K] int32 ascending, weights [T, K] fp32, zero [T] fp32: the summed weight of the zero experts)."""
    scores_TG = torch.softmax(accumulate_reference(h_TD.float(), classifier_GD), dim=-1)
    # A stable sort keeps equal scores in the order of their ids: ties go to the lower one.
    chosen_TK = torch.sort(scores_TG + bias_G, dim=-1, descending=True, stable=True).indices[:, :top_k]
    ids_TK = torch.sort(chosen_TK, dim=-1).values
    weights_TK = scores_TG.gather(1, ids_TK)
    if norm_topk:
        weights_TK = weights_TK / (weights_TK.sum(-1, keepdim=True) + 1e-20)
    weights_TK = weights_TK * scale
    zero_T = torch.zeros(len(h_TD), dtype=torch.float32)
    for ids_T, weight_T in zip(ids_TK.T, weights_TK.T, strict=True):
        zero_T += torch.where(ids_T >= num_ffn, weight_T, 0.0)
    return ids_TK.int(), weights_TK, zero_T


def fake_route(h_TD: Tensor, classifier_GD: Tensor, bias_G: Tensor, top_k: int, *_: object) -> Route:
    shape, fp32 = (h_TD.shape[0], top_k), torch.float32
    ids_TK = h_TD.new_empty(shape, dtype=torch.int32)
    return ids_TK, h_TD.new_empty(shape, dtype=fp32), h_TD.new_empty(shape[:1], dtype=fp32)


route = define_op(route_reference, fake=fake_route, triton="route")
