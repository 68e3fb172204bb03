"""The gate and the plan of its rows in one op: on a GPU one launch after the gate's product.

Legend: T tokens, D hidden, G gate outputs, K choices, F FFN experts.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from caracal_kernels.plan_rows import fake_plan, plan_rows_reference
from caracal_kernels.registry import define_op
from caracal_kernels.route import fake_route, route_reference

RoutedRows = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


def route_rows_reference(
    h_TD: Tensor,
    classifier_GD: Tensor,
    bias_G: Tensor,
    top_k: int,
    num_ffn: int,
    scale: float,
    norm_topk: bool,
    positions_T: Tensor,
    layer: int,
    replica_offset_F: Tensor,
    replica_worker: Tensor,
    num_workers: int,
) -> RoutedRows:
    """The three tensors of `route`, then the six of `plan_rows` for them.

    On a GPU the plan's counts are read once at the end, to cut rows and assignments to size: the only wait for the
    device.
    """
    ids_TK, weights_TK, zero_T = route_reference(h_TD, classifier_GD, bias_G, top_k, num_ffn, scale, norm_topk)
    plan = plan_rows_reference(ids_TK, positions_T, layer, num_ffn, replica_offset_F, replica_worker, num_workers)
    return ids_TK, weights_TK, zero_T, *plan


def _fake(h_TD: Tensor, classifier_GD: Tensor, bias_G: Tensor, top_k: int, *rest: Any) -> RoutedRows:
    ids_TK, weights_TK, zero_T = fake_route(h_TD, classifier_GD, bias_G, top_k)
    return ids_TK, weights_TK, zero_T, *fake_plan(ids_TK, num_workers=rest[-1])


route_rows = define_op(route_rows_reference, fake=_fake, triton="route")
