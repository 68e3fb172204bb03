"""How many pages of the latent cache fit into memory."""

from __future__ import annotations

import torch
from caracal_kernels import row_width

from services.checkpoint.config import ModelConfig
from services.process.memory import host_free

LEAST_TOKENS = 32_768  # that a cache holds beside other processes, if memory allows: several shorter sequences
BESIDE_OTHERS_PERCENT = 25  # share of the free memory that pages may take beside other processes
GPU_PERCENT = 90  # share of a GPU's memory for weights and pages; the rest is for activations, buffers and the driver


def page_bytes(
    config: ModelConfig, dtype: torch.dtype, page_size: int, *, fp8: bool = False, drafts: bool = False
) -> int:
    """The bytes of one page, summed over all caches. `fp8`: of the latents; `drafts`: with the cache of the draft."""
    width = row_width(config.kv_lora_rank, config.qk_rope_head_dim, dtype, fp8=fp8)
    return config.latent_caches(drafts) * page_size * width * (1 if fp8 else dtype.itemsize)


def pages_that_fit(free: int, total: int, one: int) -> int:
    """How many pages of `one` bytes fit, given the free and total bytes of a GPU; 0 when none does."""
    return max(0, free - total * (100 - GPU_PERCENT) // 100) // one


def free_memory(device: torch.device) -> int:
    """The bytes that are free now on a device."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else host_free()


def pages_beside_others(longest: int, page_size: int, free: int, one: int) -> int:
    """The number of pages for a sequence of `longest` tokens and for LEAST_TOKENS, within a share of the free memory.

    `one` is the bytes of a page. 0 when not even one fits.
    """
    wanted = -(-max(longest, LEAST_TOKENS) // page_size)
    return min(wanted, free * BESIDE_OTHERS_PERCENT // 100 // one)


def default_pages(device: torch.device, one: int, page_size: int, longest: int, shared: bool) -> int:
    """The number of pages of `one` bytes when none is set, after the weights are loaded.

    A GPU that is not `shared` with other processes gives all that is left of it; else see `pages_beside_others`.
    """
    if device.type == "cuda" and not shared:
        return pages_that_fit(*torch.cuda.mem_get_info(device), one)
    return pages_beside_others(longest, page_size, free_memory(device), one)
