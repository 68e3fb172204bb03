"""A small bf16 checkpoint; every link, and two workers with all experts; a pool of processes with P2P workers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from support.expert_workers import LINKS, Worker, connecting, load_everything, workers
from support.p2p_worker_pool import P2PWorkerPool
from support.tiny_checkpoint import make_checkpoint

from services.checkpoint.reader import Checkpoint
from services.router.dispatch.links import Connect


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


@pytest.fixture(params=LINKS)
def connect(request: pytest.FixtureRequest, checkpoint: Checkpoint) -> Connect:
    return connecting(request.param, checkpoint, torch.bfloat16)


@pytest.fixture
def two(checkpoint: Checkpoint) -> Iterator[list[Worker]]:
    with workers(checkpoint, torch.bfloat16, 2) as running:
        for worker in running:
            load_everything(worker.experts)
        yield running
