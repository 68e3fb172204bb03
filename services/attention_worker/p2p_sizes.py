"""The sizes of an attention worker's P2P groups with expert workers."""

from __future__ import annotations

import torch

from services.attention_worker.settings import AttentionSettings
from services.checkpoint.config import ModelConfig
from services.router.dispatch.nccl_link import P2POptions, P2PStats
from services.transport.payload import dispatch_dtype_of

# Of a call over a P2P group: its receive buffer stays allocated for every expert worker. A larger call goes over gRPC.
MAX_P2P_ASSIGNMENTS = 8192


def p2p_options(settings: AttentionSettings, config: ModelConfig, device: torch.device) -> P2POptions:
    """The options of this worker's links: how rows are sent, and the sizes of P2P groups' buffers."""
    dtype: torch.dtype = getattr(torch, settings.dtype or config.torch_dtype)
    return P2POptions(
        host=settings.reachable_host,
        max_rows=settings.step_tokens,
        max_assignments=min(settings.step_tokens * config.moe_topk, MAX_P2P_ASSIGNMENTS),
        hidden=config.hidden_size,
        dtype=dtype,
        dispatch_dtype=dispatch_dtype_of(settings.dispatch_dtype, dtype),
        device=device,
        stats=P2PStats(),
    )
