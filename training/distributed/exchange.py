"""The experts of one layer on all ranks of a group: tokens are gathered from all, outputs scattered back as sums.

An all-gather and a reduce-scatter take the place of all-to-all, in as many parts as there are ranks: the experts
compute on this rank's tokens first and on each other rank's as they arrive, and each sum leaves as soon as it is
there. The dense path computes meanwhile: tokens travel during the first MLP, sums during second attention and MLP;
backward, the same in reverse. A token's experts are added within a group of experts in ascending order, groups in a
fixed tree (`expert_groups`), and a matmul's rows are those of one padded group for one expert. Neither depends on the
number of ranks, so no bit of any output or gradient does.

Legend: T tokens of this rank's padded group, S those of another's, D hidden, K choices per token, G gates, N
assignments of one expert, F expert width, E experts of this rank.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F

from training.determinism.recorded import Recorded
from training.determinism.watch import Watch
from training.distributed.team import Team, messages
from training.distributed.tree import tree_sum
from training.model.moe import Experts

PHASES = 4  # messages of a layer that travel at once: tokens, outputs, their gradients, those of the tokens


def swiglu(x_ND: Tensor, gate_up_2FD: Tensor, down_DF: Tensor) -> Tensor:
    gate_NF, up_NF = F.linear(x_ND, gate_up_2FD).chunk(2, -1)
    return F.linear(F.silu(gate_NF) * up_NF, down_DF)


def rounded(x_ND: Tensor) -> Tensor:
    """Adds rows of zeros up to a multiple of 32: oneDNN compiles bf16 products for each new number of rows."""
    return F.pad(x_ND, (0, 0, 0, -len(x_ND) % 32))


@dataclass
class Arrived:
    """A padded group's tokens at the experts of this rank."""

    x_SD: Tensor
    weight_SK: Tensor
    gate_SK: Tensor
    token_N: list[Tensor] = field(default_factory=list)  # by expert
    choice_N: list[Tensor] = field(default_factory=list)
    computed: list[Recorded | None] = field(default_factory=list)

    def sort(self, first: int, experts: int) -> None:
        """Finds the assignments of the rank's experts, each expert's in the order of tokens."""
        gate_C = self.gate_SK.flatten()
        order_C = gate_C.argsort(stable=True)
        ends = gate_C.bincount(minlength=first + experts).cumsum(0).tolist()
        for expert in range(first, first + experts):
            choice_N = order_C[ends[expert - 1] if expert else 0 : ends[expert]]
            self.choice_N.append(choice_N)
            self.token_N.append(choice_N // self.gate_SK.shape[1])


@dataclass(frozen=True)
class Place:
    """Which padded groups the expert group's ranks compute now: for each peer its position in the batch and its rows.

    `number` tells apart what is under way at once.
    """

    number: int
    positions: list[int]
    rows: list[int]


class Exchange:
    """One layer's exchange, as one thread uses it: one padded group after the other.

    The gradients of the experts' weights go to `gradients`, by position in the batch: gate_up, then down.
    """

    def __init__(self, team: Team, experts: Experts, layer: str, number: int, watch: Watch) -> None:
        self.team, self.experts, self.layer, self.number, self.watch = team, experts, layer, number, watch
        self.peers = team.expert_peers
        self.own = self.peers.index(team.rank)
        self.first_expert = self.own * len(experts.down_EDF)
        self.place = Place(0, [0], [0])
        self.gradients: dict[int, list[Tensor]] = {}
        self.waited_s = 0.0  # for messages that computation has not hidden

    def start(self, x_TD: Tensor, gate_TK: Tensor, weight_TK: Tensor) -> Exchanged:
        call = Call(self, gate_TK)
        return Exchanged(call, *_Dispatch.apply(x_TD, weight_TK, call))  # type: ignore[no-untyped-call]

    def shifted(self, step: int) -> tuple[int, int]:
        """Returns the place of the peer whose tokens come in a step, and of the one that this rank sends to."""
        count = len(self.peers)
        return (self.own + step) % count, (self.own - step) % count


class Exchanged:
    """A layer's outputs on their way. What is computed before `finish` overlaps with it."""

    def __init__(self, call: Call, x_TD: Tensor, weight_TK: Tensor) -> None:
        self._call, self._ticket = call, (x_TD, weight_TK)
        self._computed: Tensor | None = None

    def compute(self) -> None:
        self._computed = _Compute.apply(*self._ticket, self._call)  # type: ignore[no-untyped-call]

    def finish(self) -> Tensor:
        out_TD: Tensor = _Combine.apply(self._computed, self._call)  # type: ignore[no-untyped-call]
        return out_TD


class Call:
    """One padded group's way through the experts of one layer, forward and backward."""

    def __init__(self, exchange: Exchange, gate_TK: Tensor) -> None:
        self.exchange, self.place, self.gate_TK = exchange, exchange.place, gate_TK
        self.peers, self.own = exchange.peers, exchange.own
        self.works: list[list[dist.Work]] = []
        self.buffers: list[Tensor] = []
        self.arrived: list[Arrived] = []
        self.weights: tuple[Tensor, Tensor] | None = None

    def _tag(self, phase: int) -> int:
        return (self.place.number * 4096 + self.exchange.number) * PHASES + phase

    def _gather(self, own: Tensor, phase: int) -> None:
        """Starts an all-gather of rows, the next peer's first."""
        self.works, self.buffers = [[]], [own.contiguous()]
        for step in range(1, len(self.peers)):
            source, target = self.exchange.shifted(step)
            buffer = own.new_empty(self.place.rows[source], *own.shape[1:])
            self.buffers.append(buffer)
            sent = [(self.buffers[0], self.peers[target])]
            self.works.append(messages(sent, [(buffer, self.peers[source])], self._tag(phase)))

    def _scatter(self, step: int, partial_SD: Tensor, phase: int) -> None:
        """Starts to send what this rank's experts made of a source's rows, and to receive what others made of ours."""
        if step == 0:
            self.works, self.buffers, self._sent = [[]], [partial_SD], [partial_SD]
            return
        source, other = self.exchange.shifted(step)
        buffer = torch.empty_like(self.buffers[0])
        self.buffers.append(buffer)
        self._sent.append(partial_SD)  # it must live until it has left
        sent = [(partial_SD, self.peers[source])]
        self.works.append(messages(sent, [(buffer, self.peers[other])], self._tag(phase)))

    def _received(self, step: int) -> Tensor:
        self._wait(self.works[step])
        return self.buffers[step]

    def _wait(self, works: list[dist.Work]) -> None:
        begun = time.perf_counter()
        for work in works:
            work.wait()
        self.exchange.waited_s += time.perf_counter() - begun

    def _sum(self) -> Tensor:
        """Waits for every peer's part and adds them in the peers' order."""
        parts = [self.buffers[0]] * len(self.peers)
        for step in range(len(self.peers)):
            parts[self.exchange.shifted(step)[1]] = self._received(step)
        self.works, self.buffers, self._sent = [], [], []
        return tree_sum(parts)

    def send_tokens(self, x_TD: Tensor, weight_TK: Tensor) -> None:
        self.dtype = x_TD.dtype
        device = x_TD.device.type
        self.narrow = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x_TD.dtype
        parts = (weight_TK.float(), self.gate_TK.int(), x_TD.to(self.narrow))
        self._gather(torch.cat([part.detach().contiguous().view(torch.uint8) for part in parts], 1), 0)

    def compute(self) -> Tensor:
        """Returns this rank's part of its own tokens; the parts of the others' tokens are under way."""
        experts, choices = self.exchange.experts, self.gate_TK.shape[1]
        self.weights = experts.gate_up_E2FD.detach().to(self.narrow), experts.down_EDF.detach().to(self.narrow)
        works, packed = self.works, self.buffers
        for step in range(len(self.peers)):
            self._wait(works[step])
            weight, gate, x = packed[step].split([4 * choices, 4 * choices, packed[step].shape[1] - 8 * choices], 1)
            arrived = Arrived(
                x.contiguous().view(self.narrow), weight.contiguous().view(torch.float32),
                gate.contiguous().view(torch.int32),
            )  # fmt: skip
            arrived.sort(self.exchange.first_expert, len(experts.down_EDF))
            self.arrived.append(arrived)
            self._scatter(step, self._forward(arrived), 1)
        return self.buffers[0]

    def _forward(self, arrived: Arrived) -> Tensor:
        assert self.weights is not None
        parts = []
        for group in self._groups():
            part_SD = torch.zeros_like(arrived.x_SD, dtype=torch.float32)
            for expert in group:
                token_N, choice_N = arrived.token_N[expert], arrived.choice_N[expert]
                if not len(token_N):
                    arrived.computed.append(None)
                    continue
                done = Recorded(
                    swiglu, rounded(arrived.x_SD[token_N]), self.weights[0][expert], self.weights[1][expert]
                )
                self.exchange.watch.computed(done, "expert", self._name(expert))
                arrived.computed.append(done)
                weight_N1 = arrived.weight_SK.flatten()[choice_N][:, None]
                part_SD.index_add_(0, token_N, done.output[: len(token_N)].float() * weight_N1)
            parts.append(part_SD)
        return tree_sum(parts)

    def _groups(self) -> list[range]:
        experts = self.exchange.experts
        return [range(e, e + experts.in_group) for e in range(0, len(experts.down_EDF), experts.in_group)]

    def _name(self, expert: int) -> str:
        return f"{self.exchange.layer} expert {self.exchange.first_expert + expert}"

    def combined(self) -> Tensor:
        return self._sum()

    def send_output_gradients(self, grad_TD: Tensor) -> None:
        self._gather(grad_TD.float(), 2)

    def compute_backward(self) -> Tensor:
        works, grads = self.works, self.buffers
        for step, arrived in enumerate(self.arrived):
            self._wait(works[step])
            position = self.place.positions[self.exchange.shifted(step)[0]]
            self._scatter(step, self._backward(arrived, grads[step], position), 3)
        self.arrived, self.weights = [], None
        return self.buffers[0]

    def _backward(self, arrived: Arrived, grad_SD: Tensor, position: int) -> Tensor:
        """Returns gradients of the source's tokens and of its weights, side by side."""
        experts = self.exchange.experts
        d_weight_C = torch.zeros(arrived.gate_SK.numel(), device=grad_SD.device)
        d_gate_up = torch.zeros_like(experts.gate_up_E2FD)
        d_down = torch.zeros_like(experts.down_EDF)
        parts = []
        for group in self._groups():
            part_SD = torch.zeros_like(grad_SD)
            for expert in group:
                done, token_N, choice_N = arrived.computed[expert], arrived.token_N[expert], arrived.choice_N[expert]
                if done is None:
                    continue
                grad_ND = grad_SD[token_N]
                d_weight_C[choice_N] = (done.output[: len(token_N)].float() * grad_ND).sum(-1)
                grad_ND = (grad_ND * arrived.weight_SK.flatten()[choice_N][:, None]).to(self.narrow)
                found = self.exchange.watch.gradients(done, rounded(grad_ND), "expert", self._name(expert))
                part_SD.index_add_(0, token_N, found[0][: len(token_N)].float())
                d_gate_up[expert], d_down[expert] = found[1], found[2]
            parts.append(part_SD)
        self.exchange.gradients[position] = [d_gate_up, d_down]
        return torch.cat([tree_sum(parts), d_weight_C.view(arrived.weight_SK.shape)], 1)

    def token_gradients(self) -> tuple[Tensor, Tensor]:
        both = self._sum()
        choices = self.gate_TK.shape[1]
        return both[:, :-choices].to(self.dtype), both[:, -choices:]


class _Dispatch(torch.autograd.Function):
    """Sends tokens; backward, receives their gradients. Its outputs only order the functions: values are under way."""

    @staticmethod
    def forward(ctx: Any, x_TD: Tensor, weight_TK: Tensor, call: Call) -> tuple[Tensor, Tensor]:
        ctx.call = call
        call.send_tokens(x_TD, weight_TK)
        return x_TD.view_as(x_TD), weight_TK.view_as(weight_TK)

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> tuple[Tensor, Tensor, None]:
        return *ctx.call.token_gradients(), None


class _Compute(torch.autograd.Function):
    """Computes the experts on every rank's tokens; backward, their gradients."""

    @staticmethod
    def forward(ctx: Any, x_TD: Tensor, weight_TK: Tensor, call: Call) -> Tensor:
        ctx.call, ctx.like = call, (x_TD, weight_TK)
        return call.compute()

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> tuple[Tensor, Tensor, None]:
        ctx.call.compute_backward()
        return *ctx.like, None


class _Combine(torch.autograd.Function):
    """Receives and adds outputs; backward, sends their gradients."""

    @staticmethod
    def forward(ctx: Any, _: Tensor, call: Call) -> Tensor:
        ctx.call = call
        return call.combined()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        ctx.call.send_output_gradients(grads[0])
        return grads[0], None
