"""A small bf16 checkpoint, and a pool of processes with P2P workers on it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from support.p2p_worker_pool import P2PWorkerPool
from support.tiny_checkpoint import make_checkpoint

from services.checkpoint.reader import Checkpoint


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("bf16"), dtype=torch.bfloat16)


@pytest.fixture(scope="module")
def checkpoint(path: Path) -> Checkpoint:
    return Checkpoint.open(path)


@pytest.fixture(scope="module")
def pool(path: Path) -> Iterator[P2PWorkerPool]:
    workers = P2PWorkerPool(path, torch.bfloat16)
    yield workers
    workers.close()
