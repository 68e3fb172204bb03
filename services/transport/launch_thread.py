"""Launches the sends and receives of all P2P groups of a CUDA device from one thread; on a CPU, from the caller's.

Two devices may launch the kernels of different NCCL communicators in different orders only if each kernel can run at
once or waits for something that does not wait for it. One thread gives each device one order; `p2p_group.py` says why
that is enough. Gloo queues operations on its own thread and blocks nothing: a hop to another thread would only cost
time.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

T = TypeVar("T")

_threads: dict[torch.device, ThreadPoolExecutor] = {}
_starting = threading.Lock()


def launch(device: torch.device, work: Callable[[], T]) -> T:
    """Runs `work` and returns its result or raises its exception. `work` must only launch, never wait for a peer."""
    if device.type == "cpu":
        return work()
    with _starting:
        if device not in _threads:
            _threads[device] = ThreadPoolExecutor(1, f"launch-{device}", torch.cuda.set_device, (device,))
    return _threads[device].submit(work).result()
