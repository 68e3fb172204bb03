"""Builds a two-rank process group of torch.distributed on a given store: gloo for CPU tensors, NCCL for CUDA ones."""

from __future__ import annotations

import os
from datetime import timedelta
from functools import cache
from typing import Any

import torch
from torch.distributed import ProcessGroupGloo
from torch.distributed.distributed_c10d import Store

HANDSHAKE_S = 5.0
MAX_CTAS = 2  # thread blocks of an NCCL kernel: few, since a send occupies them until the peer receives

# Torch's NCCL watchdog would end the process when the peer of one group dies.
NCCL_ENVIRONMENT = {
    "TORCH_NCCL_ASYNC_ERROR_HANDLING": "0",
    "TORCH_NCCL_ENABLE_MONITORING": "0",
    "TORCH_NCCL_NONBLOCKING_TIMEOUT": str(int(HANDSHAKE_S)),
    "NCCL_LAUNCH_ORDER_IMPLICIT": "0",
}


@cache
def _device(host: str) -> Any:
    """Gloo's listening socket and thread, shared by all groups of the process."""
    return ProcessGroupGloo.create_device(hostname=host)


def gloo(store: Store, rank: int, device: torch.device, host: str) -> Any:
    """A gloo group. `host` is this side's address as the peer can reach it.

    Raises RuntimeError after at most HANDSHAKE_S for each step.
    """
    group: Any = ProcessGroupGloo  # its type stub lacks the options with the device
    options = group._Options()
    options._devices, options._threads = [_device(host)], 1
    options._timeout = timedelta(seconds=HANDSHAKE_S)
    return group(store, rank, 2, options)


def nccl(store: Store, rank: int, device: torch.device, host: str) -> Any:
    """An NCCL group; `host` is not used, since NCCL finds its own interfaces. Raises as `gloo` does."""
    from torch.distributed import ProcessGroupNCCL  # only builds for CUDA have it

    os.environ.update({name: value for name, value in NCCL_ENVIRONMENT.items() if name not in os.environ})
    options = ProcessGroupNCCL.Options()
    options._timeout = timedelta(seconds=HANDSHAKE_S)
    options.config.blocking = 0  # else a peer that dies in the handshake is waited for without a timeout
    options.config.max_ctas = MAX_CTAS
    group = ProcessGroupNCCL(store, rank, 2, options)
    group.eager_connect_single_device(device)  # not at the first launch, where every other group would wait for it
    return group
