"""Counts the calls after which an expert worker that computes wrongly is found, in one process, where millions are
quick.

Two expert workers both have every expert of a tiny model, and a dispatcher computes its usual share of the calls again.
One call in many of the first worker has a flipped bit: in a row that it answers, in a row that it was sent, or in a
weight. And no call of workers that compute as they should is ever taken for wrong: of those, all are computed again, in
other batches than before.

This is not the configuration that is shipped: calls come as fast as they can, the thread that computes them again may
use a whole core instead of a fiftieth, and no message is sent. Seconds are those of the calls of 28 layers in 50 steps
a second. `bench.corruption.in_a_cluster` has the other half.
"""

from __future__ import annotations

import statistics
import time
from concurrent.futures import Future
from dataclasses import dataclass
from random import Random
from typing import Any

import torch
from caracal_kernels import GateWeights
from caracal_proto import placement_pb2
from caracal_proto.placements import layer_of
from torch import Tensor

from bench.checkpoints import console
from services.checkpoint.reader import Checkpoint
from services.expert_worker.experts import Experts
from services.local.in_process_link import LocalLink
from services.router.dispatch.links import ExpertOutput, ExpertRequest, Link
from services.router.dispatch.moe_dispatcher import MoEDispatcher
from services.router.dispatch.shadow_calls import ShadowOptions
from services.router.dispatch.table import Key

DTYPE = torch.bfloat16
SHARE, FAULTS = 0.01, 1e-3  # of the calls: computed again; with a flipped bit
CALLS_PER_S = 28 * 50  # to one worker
AHEAD, PAUSE_S = 3, 0.0005  # calls that wait to be computed again, so that none is dropped
MOST_CALLS = 2_000_000  # to the worker in one trial
TOKENS, BATCHES = 4, 64
BUSY = 1.0  # of a core: calls come faster than in a cluster
GOAL_S = 75.0
KINDS = ("answered row", "sent row", "weight")


@dataclass(frozen=True)
class Step:
    """The part of a step that a dispatcher reads."""

    number: int
    positions_T: Tensor


class FlippingLink:
    """A link to a worker in this process, of which one call in many has a flipped bit."""

    def __init__(self, experts: Experts, kind: str, faults: float, random: Random) -> None:
        self._inner, self._experts = LocalLink(experts), experts
        self._kind, self._faults, self._random = kind, faults, random
        self.calls = 0

    def dispatch(self, request: ExpertRequest) -> Future[ExpertOutput]:
        self.calls += 1
        if not self._faults or self._random.random() >= self._faults:
            return self._inner.dispatch(request)
        answered: Future[ExpertOutput] = Future()
        answered.set_result(self._wrong(request))
        return answered

    def close(self) -> None:
        self._inner.close()

    def _wrong(self, request: ExpertRequest) -> ExpertOutput:
        """The answer with one bit flipped on its way."""
        if self._kind == "sent row":
            x_RD = request.x_RD.clone()
            self._flip(x_RD)
            return self._answer(request, x_RD)
        if self._kind == "weight":
            weights = self._experts.regions[request.layer, int(request.expert_A[0])].tensors[0]
            place = self._flip(weights)
            answer = self._answer(request, request.x_RD)
            self._flip(weights, place)
            return answer
        y_AD = self._answer(request, request.x_RD).y_AD.clone()
        self._flip(y_AD)
        return ExpertOutput.of(y_AD)

    def _answer(self, request: ExpertRequest, x_RD: Tensor) -> ExpertOutput:
        return ExpertOutput.of(self._experts.compute(request.layer, x_RD, request.row_A, request.expert_A))

    def _flip(self, tensor: Tensor, place: int | None = None) -> int:
        """Flips a bit of the exponent of one value; returns its place."""
        values = tensor.view(-1).view(torch.int16)
        chosen = self._random.randrange(len(values)) if place is None else place
        while place is None and not values[chosen]:  # packed weights have zeros that nothing reads
            chosen = self._random.randrange(len(values))
        values[chosen] ^= 1 << 9
        return chosen


class Workers:
    """Two workers with every expert, and a dispatcher over them."""

    def __init__(self, checkpoint: Checkpoint, kind: str, faults: float, options: ShadowOptions, seed: int) -> None:
        config = checkpoint.config
        random, self.links = Random(seed), list[FlippingLink]()
        self._experts = [_load(checkpoint) for _ in range(2)]

        def connect(endpoint: placement_pb2.Endpoint) -> Link:
            first = endpoint.worker_id == "expert-0"
            link = FlippingLink(self._experts[0 if first else 1], kind, faults if first else 0.0, random)
            self.links += [link] if first else []
            return link

        self.convicted: list[Key] = []
        shadow = ShadowOptions(
            share=options.share,
            busy=options.busy,
            connect=connect,
            convict=lambda key, reason: self.convicted.append(key),
        )
        self.dispatcher = MoEDispatcher(connect, config, shadow=shadow)
        ends = [
            placement_pb2.Endpoint(worker_id=f"expert-{n}", boot_id=f"b{n}", address=f"127.0.0.1:{n + 1}")
            for n in range(2)
        ]
        layer = layer_of([[0, 1]] * config.n_routed_experts)
        self.dispatcher.apply(placement_pb2.Table(epoch=1, workers=ends, layers=[layer] * config.num_layers))
        generator = torch.Generator().manual_seed(seed)
        self._gate = _gate(checkpoint)
        self._h = [torch.randn(TOKENS, config.hidden_size, generator=generator).to(DTYPE) for _ in range(BATCHES)]
        self._number = 0

    def call(self) -> None:
        """One layer's call to both."""
        self._number += 1
        h_TD = self._h[self._number % BATCHES]
        positions_T = torch.arange(TOKENS, dtype=torch.int32) + self._number % 1009
        self.dispatcher.start(0, h_TD, self._gate, Step(self._number, positions_T)).finish(h_TD)

    @property
    def faulty_calls(self) -> int:
        """Calls to the worker that is at fault, those to compare among them."""
        return sum(link.calls for link in self.links)

    def close(self) -> None:
        self.dispatcher.close()


def _load(checkpoint: Checkpoint) -> Experts:
    experts = Experts(checkpoint, DTYPE)
    for expert in range(experts.num_ffn):
        experts.load(0, expert)
    return experts


def _gate(checkpoint: Checkpoint) -> GateWeights:
    prefix = "model.layers.0.mlp.router."
    classifier_GD = checkpoint.tensor(prefix + "classifier.weight", torch.float32)
    return GateWeights(classifier_GD, checkpoint.tensor(prefix + "e_score_correction_bias", torch.float32))


def until_found(checkpoint: Checkpoint, kind: str, seed: int, share: float, faults: float) -> dict[str, float]:
    """Calls to the faulty worker until its first wrong row was seen, and until it was convicted."""
    workers = Workers(checkpoint, kind, faults, ShadowOptions(share=share, busy=BUSY), seed)
    seen = 0
    try:
        while not workers.convicted and workers.faulty_calls < MOST_CALLS:
            workers.call()
            if not seen and workers.dispatcher.shadow_stats.differences:
                seen = workers.faulty_calls
        if [key[0] for key in workers.convicted] != ["expert-0"]:
            raise SystemExit(f"{kind}: convicted {workers.convicted} after {workers.faulty_calls} calls")
        stats = workers.dispatcher.shadow_stats
        return {
            "first_difference": seen,
            "conviction": workers.faulty_calls,
            "computed_again": stats.calls,
            "dropped": stats.dropped,
        }
    finally:
        workers.close()


def clean(checkpoint: Checkpoint, calls: int) -> dict[str, float]:
    """Computes so many calls of workers without a fault again. Ends the process where any counts as wrong."""
    workers = Workers(checkpoint, "answered row", 0.0, ShadowOptions(share=1.0, busy=BUSY), 0)
    stats, began_s = workers.dispatcher.shadow_stats, time.perf_counter()
    try:
        while stats.calls < calls:
            if workers.dispatcher.shadow_waiting >= AHEAD:
                time.sleep(PAUSE_S)
            else:
                workers.call()
        found = {
            "calls": stats.calls,
            "assignments": stats.assignments,
            "differences": stats.differences,
            "dropped": stats.dropped,
        }
        if stats.differences or workers.convicted:
            raise SystemExit(f"false alarms: {found}")
        return found | {"seconds": round(time.perf_counter() - began_s, 1)}
    finally:
        workers.close()


def detection(checkpoint: Checkpoint, trials: int, share: float, faults: float) -> dict[str, Any]:
    """By kind of fault: mean calls and seconds until the worker was convicted."""
    found = {}
    for kind in KINDS:
        runs = [until_found(checkpoint, kind, seed, share, faults) for seed in range(trials)]
        calls = [run["conviction"] for run in runs]
        first = statistics.mean(run["first_difference"] for run in runs)
        mean_s = statistics.mean(calls) / CALLS_PER_S
        found[kind] = {
            "mean_calls": round(statistics.mean(calls)),
            "mean_s": round(mean_s, 1),
            "mean_s_to_first_difference": round(first / CALLS_PER_S, 1),
            "trials": calls,
            "computed_again": [run["computed_again"] for run in runs],
            "dropped": [run["dropped"] for run in runs],
            "goal_s": GOAL_S,
            "met": mean_s <= GOAL_S,
        }
        console.print(f"{kind}: convicted after {found[kind]['mean_s']} s of calls")
    return found
