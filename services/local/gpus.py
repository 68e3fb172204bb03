"""How many GPUs this machine has, by CUDA's driver: torch would take seconds to say so."""

from __future__ import annotations

import ctypes


def gpu_count() -> int:
    """GPUs that CUDA_VISIBLE_DEVICES leaves; 0 without a driver."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int(0)
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)):
        return 0
    return count.value
