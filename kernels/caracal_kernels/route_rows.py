"""The gate and the plan of its rows at once. Legend: T tokens, D hidden, E gate outputs, F FFN experts, W workers."""

from __future__ import annotations

from torch import Tensor

from caracal_kernels.backend import on_triton
from caracal_kernels.plan_rows import Plan, plan_rows, plan_rows_reference
from caracal_kernels.route import Route, route, route_reference


def route_rows_reference(
    h_TD: Tensor,
    classifier_ED: Tensor,
    bias_E: Tensor,
    top_k: int,
    num_ffn: int,
    scale: float,
    norm_topk: bool,
    positions_T: Tensor,
    layer: int,
    replica_offset_F: Tensor,
    replica_worker: Tensor,
    num_workers: int,
) -> tuple[Route, Plan]:
    chosen = route_reference(h_TD, classifier_ED, bias_E, top_k, num_ffn, scale, norm_topk)
    return chosen, plan_rows_reference(
        chosen[0], positions_T, layer, num_ffn, replica_offset_F, replica_worker, num_workers
    )


def route_rows(
    h_TD: Tensor,
    classifier_ED: Tensor,
    bias_E: Tensor,
    top_k: int,
    num_ffn: int,
    scale: float,
    norm_topk: bool,
    positions_T: Tensor,
    layer: int,
    replica_offset_F: Tensor,
    replica_worker: Tensor,
    num_workers: int,
) -> tuple[Route, Plan]:
    """(what `route` returns, what `plan_rows` returns for it), on a GPU in one launch after the gate's product.

    The plan's counts are read once at the end, to cut rows and pairs to size: the only wait for the device.
    """
    if on_triton(h_TD):
        from caracal_kernels.triton.route import route_rows_triton

        return route_rows_triton(
            h_TD,
            classifier_ED,
            bias_E,
            top_k,
            num_ffn,
            scale,
            norm_topk,
            positions_T,
            layer,
            replica_offset_F,
            replica_worker,
            num_workers,
        )
    chosen = route(h_TD, classifier_ED, bias_E, top_k, num_ffn, scale, norm_topk)
    return chosen, plan_rows(chosen[0], positions_T, layer, num_ffn, replica_offset_F, replica_worker, num_workers)
