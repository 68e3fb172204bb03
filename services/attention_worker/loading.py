"""Loads a model directory into a model in memory, and computes the sizes of its engine."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Generic, Protocol, TypeVar

import structlog
import torch

from services.attention_worker.engine.engine import EngineLimits, ModelLike
from services.attention_worker.engine.memory import default_pages, free_memory, page_bytes
from services.attention_worker.golden import golden_forward
from services.attention_worker.model.model import Model, load_model
from services.attention_worker.model.ranks import ALONE, Ranks
from services.attention_worker.settings import AttentionSettings
from services.checkpoint.config import ModelConfig
from services.checkpoint.device import NoSuchDevice, find_device
from services.checkpoint.numerics import Numerics, numerics_of
from services.checkpoint.reader import Checkpoint
from services.checkpoint.scrub import Region, regions_of
from services.process.memory import host_free
from services.process.settings import InvalidSetting
from services.process.telemetry import progress
from services.transport.payload import dispatch_dtype_of
from services.weights.opening import open_checkpoint

log = structlog.get_logger(__name__)


class Servable(ModelLike, Protocol):
    """A model that an engine can run."""

    @property
    def config(self) -> ModelConfig: ...

    @property
    def device(self) -> torch.device: ...


DEFAULT_DRAFTS = 1  # tokens drafted where a checkpoint can and nothing else is set
SCORE_BYTES = 64 << 20  # of the logits that score prompts in one step

M = TypeVar("M", bound=Servable, covariant=True)


@dataclass(frozen=True, slots=True)
class ReadWeights:
    """The tensors that an attention worker has read, and the CRC-32 of each."""

    names: Sequence[str]
    files: Sequence[str]
    checksums: Sequence[int]

    def file_of(self, name: str) -> str:
        return self.files[self.names.index(name)]


@dataclass(frozen=True, slots=True)
class Loaded(Generic[M]):
    """A model that can be served, its engine's sizes, and its numerics class: workers of one class give equal bits."""

    model: M
    limits: EngineLimits
    numerics: Numerics
    weights: ReadWeights | None = None  # what the class says of them, tensor by tensor
    regions: Mapping[tuple[int, int], Region] = field(default_factory=dict)  # the same in memory


@dataclass(frozen=True, slots=True)
class Opened:
    """A checkpoint that fits the settings, before any weight is read."""

    checkpoint: Checkpoint
    settings: AttentionSettings
    dtype: torch.dtype
    device: torch.device

    @property
    def config(self) -> ModelConfig:
        return self.checkpoint.config

    @property
    def drafts(self) -> int:
        """The most tokens that are drafted of a sequence in a step."""
        if self.checkpoint.no_drafts:
            return 0
        return DEFAULT_DRAFTS if self.settings.draft < 0 else self.settings.draft

    @property
    def pages(self) -> int:
        """The cache's pages that are set, else how many there are to be by the memory that is free now."""
        return self.settings.kv_pages or self._default_pages()

    def load(self, ranks: Ranks = ALONE) -> Loaded[Model]:
        """Reads all weights but the experts', or one rank's part of them. Raises CheckpointError or InvalidSetting."""
        log.info("drafts of an answer", most=self.drafts, reason=self.checkpoint.no_drafts)
        with progress("loading the attention side") as report:
            model = load_model(
                self.checkpoint,
                self.dtype,
                report,
                ranks,
                self.device,
                self.settings.tables_dir,
                kv_fp8=self.settings.kv_fp8,
                drafts=self.drafts > 0,
            )
        dispatch_dtype = dispatch_dtype_of(self.settings.dispatch_dtype, self.dtype)
        numerics = numerics_of(self.checkpoint, self.dtype, self.device, dispatch_dtype, self.settings.kv_dtype)
        return Loaded(model, self.limits(self.pages), numerics, regions=_numbered(model.parts()))

    def classified(self, loaded: Loaded[M]) -> Loaded[M]:
        """The same, with the class that its weights and a golden forward give it. Raises CheckpointError.

        Of several ranks, it is rank 0's, once it knows what the others have read and they take steps.
        """
        checkpoint, names = self.checkpoint, self.checkpoint.attention_names()
        checksums = [checkpoint.checksum(name) for name in names]
        weights = ReadWeights(names, [checkpoint.file_of(name) for name in names], checksums)
        kept = checkpoint.keep_checksums()
        golden = golden_forward(loaded.model, self.config, self.settings.page_size)
        numerics = loaded.numerics.with_attention(checksums, golden)
        log.info("weights have checksums", tensors=len(names), kept=kept, numerics_class=numerics.name)
        return replace(loaded, numerics=numerics, weights=weights)

    def limits(self, pages: int) -> EngineLimits:
        """The engine's sizes; the model length defaults to what the positions and the whole cache both allow.

        Raises InvalidSetting when not a single page fits, or more are asked for than memory is free.
        """
        if not pages:
            raise InvalidSetting(
                "CARACAL_KV_PAGES: the weights leave no memory for a single page; use more ranks (CARACAL_TP)"
            )
        self._check_memory(pages)
        settings, positions = self.settings, self.config.max_position_embeddings
        return EngineLimits(
            num_pages=pages,
            page_size=settings.page_size,
            max_batch_tokens=settings.step_tokens,
            max_running=settings.max_running,
            max_model_len=settings.max_model_len or min(positions, pages * settings.page_size),
            max_itl_s=settings.max_itl_s,
            slowdown=settings.fair_slowdown or math.inf,
            prefix_cache=settings.prefix_cache,
            host_pages=self._host_pages(),
            max_scores=max(1, min(settings.step_tokens, SCORE_BYTES // (4 * self.config.vocab_size))),
            drafts=self.drafts,
        )

    def _default_pages(self) -> int:
        settings = self.settings
        longest = settings.max_model_len or self.config.max_position_embeddings
        return default_pages(self.device, self._page_bytes, settings.page_size, longest, settings.shared_gpu)

    @property
    def _page_bytes(self) -> int:
        settings = self.settings
        return page_bytes(self.config, self.dtype, settings.page_size, fp8=settings.kv_fp8, drafts=self.drafts > 0)

    def _host_pages(self) -> int:
        """The places of the second tier. Raises InvalidSetting when it needs more memory than is free."""
        wanted, free = int(self.settings.kv_host_gb * 1e9), host_free()
        if wanted > free:
            raise InvalidSetting(
                f"CARACAL_KV_HOST_GB: {self.settings.kv_host_gb:g} GB of host memory, {free / 1e9:.1f} are free"
            )
        return wanted // self._page_bytes

    def _check_memory(self, pages: int) -> None:
        """Raises InvalidSetting before anything is allocated: the kernel's OOM killer would end processes silently."""
        size = self.settings.page_size
        wanted, free = pages * self._page_bytes, free_memory(self.device)
        if wanted > free:
            gib = f"{wanted / 2**30:.1f} GiB, {free / 2**30:.1f} GiB are free"
            raise InvalidSetting(f"CARACAL_KV_PAGES: {pages} pages of CARACAL_PAGE_SIZE {size} take {gib}")


def _numbered(parts: Iterable[tuple[str, object]]) -> dict[tuple[int, int], Region]:
    return {(0, number): region for number, region in enumerate(regions_of(parts))}


def open_model(settings: AttentionSettings, rank: int = 0) -> Opened:
    """Opens the model directory and checks it against the settings. Raises CheckpointError or InvalidSetting."""
    try:
        device = find_device(settings.device, rank)
    except NoSuchDevice as error:
        raise InvalidSetting(str(error)) from None
    checkpoint = open_checkpoint(settings.model)
    config = checkpoint.config
    if config.num_attention_heads % settings.tp:
        heads = config.num_attention_heads
        raise InvalidSetting(f"CARACAL_TP is {settings.tp}: it must divide the model's {heads} attention heads")
    if settings.max_model_len > config.max_position_embeddings:
        positions = config.max_position_embeddings
        raise InvalidSetting(f"CARACAL_MAX_MODEL_LEN is {settings.max_model_len}, the model has {positions} positions")
    if settings.draft > 0 and checkpoint.no_drafts:
        raise InvalidSetting(f"CARACAL_DRAFT is {settings.draft}: {checkpoint.no_drafts}")
    dtype: torch.dtype = getattr(torch, settings.dtype or config.torch_dtype)
    return Opened(checkpoint, settings, dtype, device)
