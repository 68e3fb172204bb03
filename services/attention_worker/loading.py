"""From a model directory to a model in memory, and the sizes that an engine for it has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import torch

from services.attention_worker.engine import EngineLimits, ModelLike
from services.attention_worker.model import Model, load_model
from services.attention_worker.parallel.ranks import ALONE, Ranks
from services.attention_worker.settings import BadSetting, Settings
from services.checkpoint import Checkpoint, ModelConfig, numerics_class
from services.telemetry import progress


class Servable(ModelLike, Protocol):
    """A model that an engine can run."""

    @property
    def config(self) -> ModelConfig: ...


M = TypeVar("M", bound=Servable, covariant=True)


@dataclass(frozen=True, slots=True)
class Loaded(Generic[M]):
    """A model that can be served, and the class of bits it gives."""

    model: M
    limits: EngineLimits
    numerics_class: str


@dataclass(frozen=True, slots=True)
class Opened:
    """A checkpoint that fits the settings, before any weight is read."""

    checkpoint: Checkpoint
    limits: EngineLimits
    dtype: torch.dtype

    @property
    def config(self) -> ModelConfig:
        return self.checkpoint.config

    def load(self, ranks: Ranks = ALONE) -> Loaded[Model]:
        """Reads everything but the experts, or a rank's part of it. Raises CheckpointError of one line."""
        with progress("loading the attention side") as report:
            model = load_model(self.checkpoint, self.dtype, report, ranks)
        return Loaded(model, self.limits, numerics_class(self.checkpoint, self.dtype))


def open_model(settings: Settings) -> Opened:
    """Checks the model directory against the settings. Raises CheckpointError or BadSetting, each of one line."""
    checkpoint = Checkpoint.open(settings.model)
    heads = checkpoint.config.num_attention_heads
    if heads % settings.tp:
        raise BadSetting(f"CARACAL_TP is {settings.tp}: it must divide the model's {heads} attention heads")
    dtype: torch.dtype = getattr(torch, settings.dtype or checkpoint.config.torch_dtype)
    return Opened(checkpoint, engine_limits(settings, checkpoint.config), dtype)


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
