"""Puts torch into the state in which the same command gives the same bits."""

from __future__ import annotations

import os

import torch


def make_deterministic() -> None:
    """Every op on one thread and, on GPUs, in its deterministic form; what has none raises.

    Ops on several threads split sums by the number of threads: LayerNorm's backward, matmuls over few rows, `sum`.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it at its first call
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # nothing here reads what it has not written
