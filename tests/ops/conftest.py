"""Tests marked `compiled` look at what only compiled kernels do: naming culprits, meta kernels, instruction sets."""

from __future__ import annotations

import pytest
import torch
from caracal_kernels import cpu_backend


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if cpu_backend() not in ("avx512bf16", "avx2"):
        for item in items:
            if item.get_closest_marker("compiled"):
                item.add_marker(pytest.mark.skip(reason="there are no compiled kernels on this machine"))
