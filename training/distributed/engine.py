"""One step's loss and gradients, from padded groups that threads and ranks compute in any number, with the same bits.

A padded group is the unit of work: its forward and backward pass is a pure function of the weights and its rows, on one
thread. Ranks take equal shares of them, threads one after another; losses and gradients are added in a fixed tree.
Legend: T tokens, L layers, K choices per token, U padded groups, N numbers of one.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from queue import SimpleQueue

import torch
from torch import Tensor

from training.data.batches import Batch
from training.determinism.watch import CorruptionFound, Watch
from training.distributed.exchange import Place
from training.distributed.lane import Lane, Loss, Unit
from training.distributed.shards import is_sharded
from training.distributed.sums import gather_from, sum_over
from training.distributed.team import Team
from training.distributed.tree import TreeSum
from training.model.longcat_flash import LongcatFlash


@dataclass(frozen=True)
class Outcome:
    """The batch's loss; in the order of the groups the numbers of each, and by layer what each token chose."""

    loss: float
    numbers_UN: Tensor
    chosen_TK: list[Tensor]


class Engine:
    """Computes steps of `model`, whose experts are those of this rank."""

    def __init__(self, model: LongcatFlash, team: Team, threads: int, watch: Watch) -> None:
        self.model, self.team, self.watch = model, team, watch
        self._all = [Lane(model, team, watch) for _ in range(threads)]
        self._lanes: SimpleQueue[Lane] = SimpleQueue()
        for lane in self._all:
            self._lanes.put(lane)
        self._pool = ThreadPoolExecutor(threads, "lane", initializer=torch.set_num_threads, initargs=(1,))
        named = list(model.named_parameters())
        self._common = [tensor for name, tensor in named if not is_sharded(name)]
        self._sharded = [tensor for name, tensor in named if is_sharded(name)]

    def step(self, batches: list[Batch], loss: Loss) -> Outcome:
        """Sets every parameter's gradient to that of what is differentiated, added over the batches.

        Raises:
            CorruptionFound: what was computed twice has other bits.
        """
        for lane in self._all:
            lane.model.config = self.model.config  # a stage of the curriculum rotates positions by its own base
        share = len(batches) // self.team.ranks
        sums = Sums(share, self.team)
        repeated = self.watch.step // max(1, self.watch.interval) % share if self.watch.due else None

        def run(number: int) -> Unit:
            unit = self._unit(number, share, batches, loss)
            if number == repeated:
                sums.add(number, unit.copied())
            elif number < share:
                sums.add(number, unit)
            return unit

        units = list(self._pool.map(run, [*range(share), *([] if repeated is None else [share + repeated])]))
        if repeated is not None:
            self._compare(units[repeated], units.pop())
        total = self._set_gradients(sums)
        own_UN = torch.stack([unit.numbers_N for unit in units])
        ranks = list(range(self.team.ranks))
        numbers_UN = torch.cat(gather_from(ranks, self.team.rank, own_UN, [share] * len(ranks)))
        return Outcome(total, numbers_UN, self._chosen([unit.chosen for unit in units], batches))

    def waited_s(self) -> float:
        """Returns how long this rank's threads have waited within layers for other ranks, in all steps together."""
        return sum(exchange.waited_s for lane in self._all for exchange in lane.exchanges)

    def _unit(self, number: int, share: int, batches: list[Batch], loss: Loss) -> Unit:
        """Computes the rank's padded group `number` while its peers compute theirs; from `share` on, once more."""
        positions = [peer * share + number % share for peer in self.team.expert_peers]
        rows = [len(batches[position].ids_T) for position in positions]
        lane = self._lanes.get()
        try:
            return lane.compute(Place(number, positions, rows), batches[self.team.rank * share + number % share], loss)
        finally:
            self._lanes.put(lane)

    def _compare(self, first: Unit, second: Unit) -> None:
        self.watch.count("padded group")
        if count := first.differences(second):
            raise CorruptionFound(f"step {self.watch.step}: a padded group computed again has {count} other tensors")

    def _set_gradients(self, sums: Sums) -> float:
        """Returns the loss."""
        team = self.team
        loss, *common = _summed(sums.common.total(), range(team.ranks), team.rank)
        experts = _summed(sums.experts.total(), team.replicas, team.rank)
        for parameter, gradient in zip([*self._common, *self._sharded], [*common, *experts], strict=True):
            parameter.grad = gradient
        if self.watch.faults:
            gradients = {name: value.grad for name, value in self.model.named_parameters() if value.grad is not None}
            self.watch.faults.reach_one("summed gradient", gradients)
        return float(loss)

    def _chosen(self, chosen: list[list[Tensor]], batches: list[Batch]) -> list[Tensor]:
        ranks, share = list(range(self.team.ranks)), len(chosen)
        own_TLK = torch.cat([torch.stack(layers, 1) for layers in chosen]).int()
        rows = [sum(len(batch.ids_T) for batch in batches[rank * share : (rank + 1) * share]) for rank in ranks]
        return list(torch.cat(gather_from(ranks, self.team.rank, own_TLK, rows)).long().unbind(1))


class Sums:
    """A rank's sums over padded groups: its own share's, and for its experts those of its whole expert group."""

    def __init__(self, share: int, team: Team) -> None:
        self.common, self.experts = TreeSum(share), TreeSum(share * team.sharing)
        self._first = team.expert_peers[0] * share

    def add(self, number: int, unit: Unit) -> None:
        """Takes the unit's gradients."""
        self.common.add(number, [unit.loss, *unit.common])
        for position, gradients in unit.experts.items():
            self.experts.add(position - self._first, gradients)


def _summed(tensors: list[Tensor], peers: Sequence[int], rank: int) -> list[Tensor]:
    if len(peers) == 1:
        return tensors
    flat = sum_over(list(peers), rank, torch.cat([tensor.reshape(-1) for tensor in tensors]))
    parts = flat.split([tensor.numel() for tensor in tensors])
    return [part.view(tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]
