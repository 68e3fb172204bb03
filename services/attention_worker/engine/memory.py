"""How many pages of latents there is room for."""

from __future__ import annotations

from pathlib import Path

import torch

from services.checkpoint.config import ModelConfig

CPU_PAGES = 512
CGROUPS = (
    ("/sys/fs/cgroup", "memory.max", "memory.current"),
    ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
)
GPU_PERCENT = 90  # of a GPU's memory for weights and pages; the rest is for activations, buffers and the driver


def page_bytes(config: ModelConfig, dtype: torch.dtype, page_size: int) -> int:
    """Of one page in all caches: two sublayers a layer."""
    return 2 * config.num_layers * page_size * config.latent * dtype.itemsize


def pages_that_fit(free: int, total: int, one: int) -> int:
    """Pages of `one` byte count in what is free, all in bytes; 0 when there is no room."""
    return max(0, free - total * (100 - GPU_PERCENT) // 100) // one


def host_free() -> int:
    """Bytes that this process may still take: of the machine, or of its control group where that has less."""
    with open("/proc/meminfo", encoding="ascii") as lines:
        found = {name: int(rest.split()[0]) * 1024 for name, _, rest in (line.partition(":") for line in lines)}
    free = found["MemAvailable"]
    for root, limit, used in CGROUPS:
        try:
            most, taken = (Path(root, name).read_text(encoding="ascii").strip() for name in (limit, used))
        except OSError:
            continue
        if most != "max":
            free = min(free, max(0, int(most) - int(taken)))
    return free


def free_memory(device: torch.device) -> int:
    """Bytes on the device that are free now."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else host_free()


def room_for_pages(device: torch.device, config: ModelConfig, dtype: torch.dtype, page_size: int) -> int:
    """Asked once the weights are there."""
    if device.type != "cuda":
        return CPU_PAGES
    return pages_that_fit(*torch.cuda.mem_get_info(device), page_bytes(config, dtype, page_size))
