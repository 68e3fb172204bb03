"""Rank 0 of a tensor-parallel worker: a model for the engine, whose forward pass runs on every rank."""

from __future__ import annotations

from torch import Tensor

from services.attention_worker.loading import Loaded, Opened
from services.attention_worker.model.interfaces import DispatcherLike
from services.attention_worker.model.model import Model
from services.attention_worker.model.ranks import SharedRanks
from services.attention_worker.model.shard import Shard
from services.attention_worker.model.step import Step
from services.attention_worker.tensor_parallel.dispatchers import DispatchFailed, Rank0Dispatcher
from services.attention_worker.tensor_parallel.followers import Followers
from services.attention_worker.tensor_parallel.group import RankGroup
from services.attention_worker.tensor_parallel.step_codec import pack
from services.checkpoint.config import ModelConfig
from services.checkpoint.ngram import NgramConfig
from services.router.dispatch.errors import WorkerUnavailable


class Rank0Model:
    """Rank 0's part of the model; `forward` and `draft` send each step to the followers first."""

    def __init__(self, model: Model, group: RankGroup, followers: Followers) -> None:
        self.config, self.device = model.config, model.device
        self._model, self._group, self._followers = model, group, followers

    @property
    def ngram(self) -> NgramConfig | None:
        return self._model.ngram

    @property
    def drafts(self) -> bool:
        return self._model.drafts

    def new_cache(self, num_pages: int, page_size: int) -> list[Tensor]:
        """This rank's caches: all heads share the latents, so every rank has all of them."""
        return self._model.new_cache(num_pages, page_size)

    def forward(self, step: Step, caches: list[Tensor], dispatcher: DispatcherLike) -> Tensor:
        """As Model.forward. Raises what the dispatcher raises; WorkerUnavailable when the ranks are out of step."""
        try:
            self._followers.send(pack(step, caches[0].shape[1]))
            logits_BV = self._model.forward(step, caches, Rank0Dispatcher(self._group, dispatcher))
            self._group.synchronize()
            self._followers.check()
            return logits_BV
        except DispatchFailed as failed:
            raise failed.error from None
        except Exception as error:
            raise WorkerUnavailable(str(self._followers.kill(error))) from error

    def draft(self, step: Step, rows_T: Tensor, caches: list[Tensor]) -> Tensor:
        """As Model.draft: every rank has the rows that the step continues. Raises WorkerUnavailable."""
        try:
            self._followers.send(pack(step, caches[0].shape[1], rows_T))
            logits_BV = self._model.draft(step, rows_T, caches)
            self._group.synchronize()
            self._followers.check()
            return logits_BV
        except Exception as error:
            raise WorkerUnavailable(str(self._followers.kill(error))) from error


def shared_ranks(config: ModelConfig, group: RankGroup) -> SharedRanks:
    """How this model's dense work is shared by the ranks of a group."""
    return SharedRanks(
        group.shard,
        group,
        hidden=config.hidden_size,
        heads_width=config.num_attention_heads * config.v_head_dim,
        inner=config.ffn_hidden_size,
        vocabulary=config.vocab_size,
    )


def load_rank0(opened: Opened, followers: Followers) -> Loaded[Model] | Loaded[Rank0Model]:
    """Loads the whole model, or rank 0's part and connects the followers. Raises CheckpointError or RankLost."""
    if followers.size == 1:
        return opened.classified(opened.load())
    group = RankGroup(Shard(0, followers.size), followers.folder, opened.device)
    loaded = opened.load(shared_ranks(opened.config, group))
    for whole, parts in followers.await_ready(loaded.numerics.name):
        opened.checkpoint.checksums.add(whole, parts)
    group.connect()
    followers.on_lost(group.abort)
    limits = opened.limits(group.all_reduce_min(loaded.limits.num_pages))
    if opened.device.type == "cpu":  # NCCL may read its store later; gloo is connected and does not
        followers.remove_folder()
    model = Rank0Model(loaded.model, group, followers)
    return opened.classified(Loaded(model, limits, loaded.numerics, regions=loaded.regions))
