"""Fills newly allocated memory with NaN, or the largest integer: elements that a kernel does not write are noticed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def poisoned_memory() -> Iterator[None]:
    """To be used around the op alone: in this mode some of torch's own CUDA functions raise."""
    torch.use_deterministic_algorithms(True)
    try:
        assert torch.empty(3).isnan().all(), "torch fills new memory in this mode"
        yield
    finally:
        torch.use_deterministic_algorithms(False)
