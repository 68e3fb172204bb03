"""How many experts fit a worker's memory beside other processes: for replicas, which nobody asked for."""

from __future__ import annotations

import torch

from services.checkpoint.config import ModelConfig
from services.process.memory import host_free

PERCENT = 50  # of the memory that is free at the start


def experts_that_fit(config: ModelConfig, dtype: torch.dtype, device: torch.device) -> int:
    """Experts in PERCENT of what is free now on the device, at least 1. Those in fp8 take less than counted."""
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else host_free()
    one = 3 * config.hidden_size * config.expert_ffn_hidden_size * dtype.itemsize
    return max(1, free * PERCENT // 100 // one)
