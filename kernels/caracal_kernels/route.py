"""The gate. Legend: T tokens, D hidden, E gate outputs (FFN experts, then zero experts), K slots.

Source: longcat-flash.md 1.3. The bias chooses and does not weigh; zero experts' weights carry the scale too.
"""

from __future__ import annotations

import torch
from torch import Tensor

from caracal_kernels.backend import compiled, on_triton
from caracal_kernels.linear import accumulate_reference

Route = tuple[Tensor, Tensor, Tensor]


def route_reference(
    h_TD: Tensor, classifier_ED: Tensor, bias_E: Tensor, top_k: int, num_ffn: int, scale: float, norm_topk: bool = False
) -> Route:
    scores_TE = torch.softmax(accumulate_reference(h_TD.float(), classifier_ED), dim=-1)
    # A stable sort keeps equal scores in the order of their ids: ties go to the lower one.
    chosen_TK = torch.sort(scores_TE + bias_E, dim=-1, descending=True, stable=True).indices[:, :top_k]
    ids_TK = torch.sort(chosen_TK, dim=-1).values
    weights_TK = scores_TE.gather(1, ids_TK)
    if norm_topk:
        weights_TK = weights_TK / (weights_TK.sum(-1, keepdim=True) + 1e-20)
    weights_TK = weights_TK * scale
    zero_T = torch.zeros(len(h_TD), dtype=torch.float32)
    for ids_T, weight_T in zip(ids_TK.T, weights_TK.T, strict=True):
        zero_T += torch.where(ids_T >= num_ffn, weight_T, 0.0)
    return ids_TK.int(), weights_TK, zero_T


def route(
    h_TD: Tensor, classifier_ED: Tensor, bias_E: Tensor, top_k: int, num_ffn: int, scale: float, norm_topk: bool = False
) -> Route:
    """(ids [T, K] int32 ascending, weights [T, K] fp32, zero [T] fp32: the summed weight of the zero experts)."""
    if on_triton(h_TD):
        from caracal_kernels.triton.route import route_triton

        return route_triton(h_TD, classifier_ED, bias_E, top_k, num_ffn, scale, norm_topk)
    body = torch.ops.caracal.route if compiled(h_TD) else route_reference
    ids_TK, weights_TK, zero_T = body(h_TD, classifier_ED, bias_E, top_k, num_ffn, scale, norm_topk)
    return ids_TK, weights_TK, zero_T
