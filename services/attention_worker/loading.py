"""From a model directory to a model in memory, and the sizes that an engine for it has."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from services.attention_worker.engine import EngineLimits
from services.attention_worker.model import Model, load_model
from services.attention_worker.settings import BadSetting, Settings
from services.checkpoint import Checkpoint, ModelConfig, numerics_class
from services.telemetry import progress


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model that can be served, and the class of bits it gives."""

    model: Model
    limits: EngineLimits
    numerics_class: str


def load(settings: Settings) -> Loaded:
    """Reads everything but the experts. Raises CheckpointError or BadSetting, each of one line."""
    checkpoint = Checkpoint.open(settings.model)
    limits = engine_limits(settings, checkpoint.config)
    dtype: torch.dtype = getattr(torch, settings.dtype or checkpoint.config.torch_dtype)
    with progress("loading the attention side") as report:
        model = load_model(checkpoint, dtype, report)
    return Loaded(model, limits, numerics_class(checkpoint, dtype))


def engine_limits(settings: Settings, config: ModelConfig) -> EngineLimits:
    """The engine's sizes; the model length defaults to what the positions and the whole cache both allow."""
    if settings.max_model_len > config.max_position_embeddings:
        positions = config.max_position_embeddings
        raise BadSetting(f"CARACAL_MAX_MODEL_LEN is {settings.max_model_len}, the model has {positions} positions")
    capacity = settings.kv_pages * settings.page_size
    return EngineLimits(
        num_pages=settings.kv_pages,
        page_size=settings.page_size,
        max_batch_tokens=settings.max_batch_tokens,
        max_running=settings.max_running,
        max_model_len=settings.max_model_len or min(config.max_position_embeddings, capacity),
    )
