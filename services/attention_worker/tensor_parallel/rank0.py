"""Rank 0 of several: a model for the engine, whose forward pass every rank takes part in."""

from __future__ import annotations

from torch import Tensor

from services.attention_worker.loading import Loaded, Opened
from services.attention_worker.model.interfaces import DispatcherLike
from services.attention_worker.model.model import Model
from services.attention_worker.model.ranks import SharedRanks
from services.attention_worker.model.shard import Shard
from services.attention_worker.model.step import Step
from services.attention_worker.tensor_parallel.dispatchers import GaveUp, Rank0Dispatcher
from services.attention_worker.tensor_parallel.followers import Followers
from services.attention_worker.tensor_parallel.group import RankGroup
from services.attention_worker.tensor_parallel.step_codec import pack
from services.checkpoint.config import ModelConfig
from services.router.dispatch.links import WorkerUnavailable


class Rank0Model:
    """Rank 0's part of the model, and the word to the others before each step."""

    def __init__(self, model: Model, group: RankGroup, followers: Followers) -> None:
        self.config, self.device = model.config, model.device
        self._model, self._group, self._followers = model, group, followers

    def new_cache(self, num_pages: int, page_size: int) -> list[Tensor]:
        """This rank's caches: latents belong to all heads, so every rank has all of them."""
        return self._model.new_cache(num_pages, page_size)

    def forward(self, step: Step, caches: list[Tensor], exchange: DispatcherLike) -> Tensor:
        """As Model.forward. Raises what the exchange raises, and WorkerUnavailable when the ranks are out of step."""
        try:
            self._followers.send(pack(step, caches[0].shape[1]))
            logits_BV = self._model.forward(step, caches, Rank0Dispatcher(self._group, exchange))
            self._group.settle()
            self._followers.check()
            return logits_BV
        except GaveUp as gave_up:
            raise gave_up.why from None
        except Exception as error:
            raise WorkerUnavailable(str(self._followers.part(error))) from error


def shared_ranks(config: ModelConfig, group: RankGroup) -> SharedRanks:
    """A rank's share of the work on this model."""
    return SharedRanks(
        group.shard,
        group,
        heads_width=config.num_attention_heads * config.v_head_dim,
        inner=config.ffn_hidden_size,
        vocabulary=config.vocab_size,
    )


def load_rank0(opened: Opened, followers: Followers) -> Loaded[Model] | Loaded[Rank0Model]:
    """The whole model, or rank 0's part of it, joined by the others. Raises CheckpointError or RankLost."""
    if followers.size == 1:
        return opened.load()
    group = RankGroup(Shard(0, followers.size), followers.folder, opened.device)
    loaded = opened.load(shared_ranks(opened.config, group))
    followers.await_ready(loaded.numerics_class)
    group.connect()
    followers.joined(group.abort)
    limits = opened.limits(group.all_reduce_min(loaded.limits.num_pages))
    if opened.device.type == "cpu":  # NCCL may look into its store later on; gloo has met and needs it no more
        followers.clear()
    return Loaded(Rank0Model(loaded.model, group, followers), limits, loaded.numerics_class)
