"""Steps of one model over two dispatchers: native code runs the layers over the one, Python over the other.

Legend: D hidden.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from random import Random
from typing import Any

import torch
from caracal_kernels import GateWeights
from caracal_proto import placement_pb2
from support.expert_workers import connecting, open_dispatcher
from support.paged import Paged
from torch import Tensor

from services.attention_worker.model.interfaces import DispatcherLike, MoEHandleLike
from services.attention_worker.model.model import Model, load_model
from services.attention_worker.model.step import Step
from services.checkpoint.reader import Checkpoint
from services.router.dispatch.moe_dispatcher import MoEDispatcher
from services.router.dispatch.native_link import NativeStats
from services.router.dispatch.stats import LayerStats

Chunks = dict[int, list[int]]


@dataclass(frozen=True)
class LayerByLayer:
    """A dispatcher whose exchange cannot be left to native code, so that Python runs the layers."""

    inner: DispatcherLike

    def start(self, layer: int, h_TD: Tensor, gate: GateWeights, step: Step) -> MoEHandleLike:
        return self.inner.start(layer, h_TD, gate, step)


class Side:
    """One dispatcher, and the sequences that run over it."""

    def __init__(self, model: Model, dispatcher: MoEDispatcher, calls: NativeStats, natively: bool, pages: Any) -> None:
        self.dispatcher, self.calls = dispatcher, calls
        self._paged = Paged(model, dispatcher if natively else LayerByLayer(dispatcher), **pages)
        self.caches = self._paged.caches

    def observed(self, chunks: Chunks) -> tuple[dict[int, Tensor], Tensor]:
        """The same, with the rows after the embedding and after each layer."""
        rows: dict[int, Tensor] = {}
        self._paged.observe = lambda number, x_TD: rows.update({number: x_TD.clone()})
        logits = self.feed(chunks)
        self._paged.observe = None
        return rows, logits

    def feed(self, chunks: Chunks) -> Tensor:
        """Runs one step; returns its rows of logits, in the order of the chunks."""
        with torch.inference_mode():
            return torch.cat(list(self._paged.feed(chunks).values()))

    @property
    def native_layers(self) -> int:
        return self.dispatcher.stats.native_layer_calls

    def counts(self) -> list[dict[str, int]]:
        """Each layer's counters but the seconds, which no two runs have in common."""
        return [_counts(layer) for layer in self.dispatcher.stats.layers]


def _counts(layer: LayerStats) -> dict[str, int]:
    return {name: value for name, value in asdict(layer).items() if not name.endswith("_s")}


@dataclass(frozen=True)
class Sides:
    """The same model and the same workers: `native` and `python` must not differ in a bit or a count."""

    model: Model
    native: Side
    python: Side

    def apply(self, table: placement_pb2.Table) -> None:
        for side in (self.native, self.python):
            side.dispatcher.apply(table)


@contextmanager
def both_sides(
    checkpoint: Checkpoint, dtype: torch.dtype, *, sequences: int = 4, capacity: int = 192, **options: Any
) -> Iterator[Sides]:
    """Opens both; `options` are the dispatchers'."""
    model = load_model(checkpoint, dtype, lambda done, total: None)
    with ExitStack() as stack:

        def side(natively: bool) -> Side:
            calls = NativeStats()
            connect = connecting("native", checkpoint, dtype, native_stats=calls)
            dispatcher = stack.enter_context(open_dispatcher(checkpoint, connect, **options))
            return Side(model, dispatcher, calls, natively, {"sequences": sequences, "capacity": capacity})

        yield Sides(model, side(True), side(False))


def steps(vocabulary: int, sequences: int, count: int, seed: int = 0, longest: int = 17) -> Iterable[Chunks]:
    """Steps that mix chunks of prompts with decodes, of some of the sequences each."""
    random = Random(seed)
    for _ in range(count):
        rows = random.sample(range(sequences), random.randint(1, sequences))
        yield {row: [random.randrange(vocabulary) for _ in range(random.choice([1, 1, longest]))] for row in rows}
