"""How many pages of latents there is room for."""

from __future__ import annotations

import torch

from services.model_config import ModelConfig

CPU_PAGES = 512
GPU_PERCENT = 90  # of a GPU's memory for weights and pages; the rest is for activations, buffers and the driver


def page_bytes(config: ModelConfig, dtype: torch.dtype, page_size: int) -> int:
    """Of one page in all caches: two sublayers a layer."""
    return 2 * config.num_layers * page_size * config.latent * dtype.itemsize


def pages_that_fit(free: int, total: int, one: int) -> int:
    """Pages of `one` byte count in what is free, all in bytes; 0 when there is no room."""
    return max(0, free - total * (100 - GPU_PERCENT) // 100) // one


def room_for_pages(device: torch.device, config: ModelConfig, dtype: torch.dtype, page_size: int) -> int:
    """Asked once the weights are there."""
    if device.type != "cuda":
        return CPU_PAGES
    return pages_that_fit(*torch.cuda.mem_get_info(device), page_bytes(config, dtype, page_size))
