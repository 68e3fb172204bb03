"""One thread's view of the model: the same weights, but exchanges, watched ops and statistics of its own."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from training.data.batches import Batch
from training.determinism.recorded import same_bits
from training.determinism.watch import Watch
from training.determinism.watched_attention import WatchedAttention
from training.distributed.exchange import Exchange, Place
from training.distributed.shards import is_sharded
from training.distributed.team import Team
from training.model.attention import Attention
from training.model.longcat_flash import LongcatFlash
from training.model.moe import MoE

# Returns a padded group's loss, what is differentiated, and what gives other numbers after the backward pass.
Loss = Callable[[LongcatFlash, Batch], tuple[Tensor, Tensor, Callable[[], Tensor]]]


@dataclass
class Unit:
    """What one padded group gave.

    Its loss; the gradients of what every rank has; by position in the batch those of this rank's experts, for the
    groups that the expert group's ranks computed together; by layer what its tokens chose; and its other numbers.
    """

    loss: Tensor
    common: list[Tensor]
    experts: dict[int, list[Tensor]]
    chosen: list[Tensor]
    numbers_N: Tensor

    def differences(self, other: Unit) -> int:
        """Returns how many of the tensors have other bits."""
        tensors = [
            [unit.loss, *unit.common, *(tensor for _, group in sorted(unit.experts.items()) for tensor in group)]
            for unit in (self, other)
        ]
        return sum(not same_bits(one, two) for one, two in zip(*tensors, strict=True))

    def copied(self) -> Unit:
        """Returns a unit whose sums may be written into."""
        experts = {position: [tensor.clone() for tensor in group] for position, group in self.experts.items()}
        common = [tensor.clone() for tensor in self.common]
        return Unit(self.loss.clone(), common, experts, self.chosen, self.numbers_N)


class Lane:
    def __init__(self, model: LongcatFlash, team: Team, watch: Watch) -> None:
        shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
        self.model = copy.deepcopy(model, shared)
        self.exchanges: list[Exchange] = []
        for name, module in self.model.named_modules():
            if isinstance(module, MoE):
                exchange = Exchange(team, module.experts, name, len(self.exchanges), watch)
                module.exchange = exchange
                self.exchanges.append(exchange)
            elif isinstance(module, Attention):
                module.attend = WatchedAttention(watch, name)
        self.common = [tensor for name, tensor in self.model.named_parameters() if not is_sharded(name)]
        if watch.faults:
            self._expose_dense_outputs(watch)

    def _expose_dense_outputs(self, watch: Watch) -> None:
        def reach(module: nn.Module, inputs: object, output: Tensor) -> None:
            assert watch.faults
            watch.faults.reach("dense output", "mlps", output)

        for name, module in self.model.named_modules():
            if ".mlps." in name and name.endswith("down_proj"):
                module.register_forward_hook(reach)

    def compute(self, place: Place, batch: Batch, loss: Loss) -> Unit:
        for exchange in self.exchanges:
            exchange.place = place
        own, differentiated, numbers = loss(self.model, batch)
        common = torch.autograd.grad(differentiated, self.common, materialize_grads=True)
        experts = {
            position: [tensor for exchange in self.exchanges for tensor in exchange.gradients.pop(position)]
            for position in place.positions
        }
        chosen = [moe.chosen_TK for moe in self.model.mixtures() if moe.chosen_TK is not None]
        contiguous = [tensor.contiguous() for tensor in common]
        return Unit(own.detach(), contiguous, experts, chosen, numbers())
