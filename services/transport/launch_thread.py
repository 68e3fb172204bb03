"""One thread per CUDA device launches whatever its pairs send and receive; a CPU's pairs launch where they are.

NCCL's kernels of different communicators may be launched in different orders on two devices only if each kernel can
run at once or waits for something that does not wait for it. One thread gives each device one order; `group.py` says
why that is enough. Gloo's operations are kept by its own thread and hold nothing back: a hop to another thread would
only cost time.
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
    """What `work` returns or raises. It must only launch: it never waits for a peer."""
    if device.type == "cpu":
        return work()
    with _starting:
        if device not in _threads:
            _threads[device] = ThreadPoolExecutor(1, f"launch-{device}", torch.cuda.set_device, (device,))
    return _threads[device].submit(work).result()
