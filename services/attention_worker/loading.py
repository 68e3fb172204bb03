"""From a model directory to a model in memory, and the sizes that an engine for it has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import torch

from services.attention_worker.engine.engine import EngineLimits, ModelLike
from services.attention_worker.engine.memory import free_memory, page_bytes, room_for_pages
from services.attention_worker.model.model import Model, load_model
from services.attention_worker.model.ranks import ALONE, Ranks
from services.attention_worker.settings import InvalidSetting, Settings
from services.checkpoint.config import ModelConfig
from services.checkpoint.device import NoSuchDevice, find_device
from services.checkpoint.numerics import numerics_class
from services.checkpoint.reader import Checkpoint
from services.process.telemetry import progress


class Servable(ModelLike, Protocol):
    """A model that an engine can run."""

    @property
    def config(self) -> ModelConfig: ...

    @property
    def device(self) -> torch.device: ...


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
    settings: Settings
    dtype: torch.dtype
    device: torch.device

    @property
    def config(self) -> ModelConfig:
        return self.checkpoint.config

    def load(self, ranks: Ranks = ALONE) -> Loaded[Model]:
        """Reads everything but the experts, or a rank's part of it. Raises CheckpointError or InvalidSetting."""
        with progress("loading the attention side") as report:
            model = load_model(self.checkpoint, self.dtype, report, ranks, self.device)
        room = room_for_pages(self.device, self.config, self.dtype, self.settings.page_size)
        numerics = numerics_class(self.checkpoint, self.dtype, self.device)
        return Loaded(model, self.limits(self.settings.kv_pages or room), numerics)

    def limits(self, pages: int) -> EngineLimits:
        """The engine's sizes; the model length defaults to what the positions and the whole cache both allow.

        Raises InvalidSetting when there is no room for a single page.
        """
        if not pages:
            raise InvalidSetting(
                "CARACAL_KV_PAGES: the weights leave the GPU no room for a page: more ranks (CARACAL_TP)?"
            )
        self._check_room(pages)
        settings, positions = self.settings, self.config.max_position_embeddings
        return EngineLimits(
            num_pages=pages,
            page_size=settings.page_size,
            max_batch_tokens=settings.max_batch_tokens,
            max_running=settings.max_running,
            max_model_len=settings.max_model_len or min(positions, pages * settings.page_size),
        )

    def _check_room(self, pages: int) -> None:
        """Before anything is allocated: a machine that runs out of memory says nothing and takes others with it."""
        size = self.settings.page_size
        wanted, free = pages * page_bytes(self.config, self.dtype, size), free_memory(self.device)
        if wanted > free:
            gib = f"{wanted / 2**30:.1f} GiB, {free / 2**30:.1f} GiB are free"
            raise InvalidSetting(f"CARACAL_KV_PAGES: {pages} pages of CARACAL_PAGE_SIZE {size} take {gib}")


def open_model(settings: Settings, rank: int = 0) -> Opened:
    """Checks the model directory against the settings. Raises CheckpointError or InvalidSetting, each of one line."""
    try:
        device = find_device(settings.device, rank)
    except NoSuchDevice as error:
        raise InvalidSetting(str(error)) from None
    checkpoint = Checkpoint.open(settings.model)
    config = checkpoint.config
    if config.num_attention_heads % settings.tp:
        heads = config.num_attention_heads
        raise InvalidSetting(f"CARACAL_TP is {settings.tp}: it must divide the model's {heads} attention heads")
    if settings.max_model_len > config.max_position_embeddings:
        positions = config.max_position_embeddings
        raise InvalidSetting(f"CARACAL_MAX_MODEL_LEN is {settings.max_model_len}, the model has {positions} positions")
    dtype: torch.dtype = getattr(torch, settings.dtype or config.torch_dtype)
    return Opened(checkpoint, settings, dtype, device)
