"""Puts torch into the state in which the same command gives the same bits."""

from __future__ import annotations

import os

import torch


def make_deterministic() -> None:
    """Every op on one thread and, on GPUs, in its deterministic form; what has none raises.

    On two threads torch 2.13 gives other bits than on one for the gradients of attention and, in fp32, of a linear
    layer's weights, and for `index_put` that accumulates.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it at its first call
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    # Nothing here reads what it has not written. The ignore: torch makes the module's attribute at run time.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
