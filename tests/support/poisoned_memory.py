"""Outputs that a kernel allocates are full of NaN, or of the largest integer, until it writes them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def poisoned_memory() -> Iterator[None]:
    """Only around the op: in this mode some of torch's own CUDA functions refuse."""
    torch.use_deterministic_algorithms(True)
    try:
        assert torch.empty(3).isnan().all(), "torch poisons fresh memory in this mode"
        yield
    finally:
        torch.use_deterministic_algorithms(False)
