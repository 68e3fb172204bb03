"""How a step's stretches of dense work are run: as they come, or as recorded launches.

A layer meets its experts twice, at `start` and at `finish`; what lies between two meetings is one segment. On a GPU a
decode step's segment is many small launches, so it is recorded once for each size of step and then replayed as one
CUDA graph. A recording has a fixed number of rows: steps are filled up, and since no row looks at
another, the others' bits stay what they are. Tensors that fill up are at position 0 and write to no cache slot.
Legend: T tokens, D hidden, S rows of the page table, X pages a row may hold.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from services.attention_worker.model.step import Step

BUCKETS = (1, 2, 4, 8, 16, 24, 32, 48, 64)
NO_SLOT = -1

Tensors = tuple[Tensor, ...]
Segment = Callable[..., Tensors]  # (step, caches, *rows) -> rows; always the same function of them


class SegmentStep(Protocol):
    """One step's way of running segments."""

    @property
    def step(self) -> Step:
        """The step on the model's device."""
        ...

    def __call__(self, segment: Segment, *rows: Tensor) -> Tensors: ...


class SegmentRunner(Protocol):
    """Begins steps."""

    def begin(self, step: Step, caches: list[Tensor]) -> SegmentStep: ...


@dataclass(frozen=True, slots=True)
class EagerStep:
    """Every launch by itself."""

    step: Step
    caches: list[Tensor]

    def __call__(self, segment: Segment, *rows: Tensor) -> Tensors:
        return segment(self.step, self.caches, *rows)


@dataclass(frozen=True, slots=True)
class EagerRunner:
    """SegmentRunner steps of any size."""

    device: torch.device

    def begin(self, step: Step, caches: list[Tensor]) -> SegmentStep:
        return EagerStep(step.to(self.device), caches)


class GraphCapture(Protocol):
    """Makes graphs."""

    def record(self, work: Callable[[], Tensors]) -> tuple[Callable[[], None], Tensors]:
        """(what runs `work` again, where its results then are)."""
        ...


class CudaGraphCapture:
    """CUDA graphs over one pool of memory: they never run at the same time."""

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()

    def record(self, work: Callable[[], Tensors]) -> tuple[Callable[[], None], Tensors]:
        work()  # compiles and loads what it launches; neither may happen in a capture
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        # Other threads launch and allocate meanwhile; only what this one does may spoil the capture.
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            results = work()
        return graph.replay, results


class GraphRunner:
    """Replays steps of at most BUCKETS[-1] tokens on one model's device; larger ones run as they come."""

    def __init__(self, device: torch.device, capture: GraphCapture) -> None:
        self._eager, self._capture = EagerRunner(device), capture
        self._buckets: dict[tuple[int, int], _Bucket] = {}
        self._caches: list[Tensor] = []
        self.graphs = 0

    def begin(self, step: Step, caches: list[Tensor]) -> SegmentStep:
        tokens = len(step.ids_T)
        if not 0 < tokens <= BUCKETS[-1]:
            return self._eager.begin(step, caches)
        if caches is not self._caches:  # a recording reads and writes the caches that it was made with
            self._caches, self._buckets = caches, {}
        rows = BUCKETS[bisect_left(BUCKETS, tokens)]
        # Attention starts a program for each stretch of the table's width, so that is fixed in a recording, too.
        width = min(step.page_table_SX.shape[1], 1 << (step.pages - 1).bit_length())
        if (rows, width) not in self._buckets:
            self._buckets[rows, width] = _Bucket(_blank(rows, width, step, self._eager.device), {})
        size = self._buckets[rows, width]
        return _GraphStep(self, size, caches, size.take(step))

    def replay(self, size: _Bucket, segment: Segment, caches: list[Tensor], rows: Tensors) -> Tensors:
        """The segment over `rows`, filled up; results have all rows of the recording."""
        recording = size.graphs.get(segment)
        if recording is None:
            inputs = tuple(row.new_zeros((len(size.step.ids_T), *row.shape[1:])) for row in rows)
            _put(inputs, rows)
            again, results = self._capture.record(lambda: segment(size.step, caches, *inputs))
            recording = size.graphs[segment] = _CapturedGraph(inputs, again, results)
            self.graphs += 1
        _put(recording.inputs, rows)
        recording.again()
        return recording.results


def runner_for(device: torch.device, ranks: int = 1) -> SegmentRunner:
    """GraphRunner on a GPU; as they come on a CPU, and where ranks gather inside a segment."""
    return GraphRunner(device, CudaGraphCapture()) if device.type == "cuda" and ranks == 1 else EagerRunner(device)


@dataclass(frozen=True, slots=True)
class _CapturedGraph:
    inputs: Tensors
    again: Callable[[], None]
    results: Tensors


@dataclass(frozen=True, slots=True)
class _Bucket:
    """A step of so many rows that graphs read, and the graphs."""

    step: Step
    graphs: dict[Segment, _CapturedGraph]

    def take(self, step: Step) -> Step:
        """The step's values, in here; returned is the part that is not filled up."""
        here, tokens = self.step, len(step.ids_T)
        for mine_T, given_T in (
            (here.ids_T, step.ids_T),
            (here.positions_T, step.positions_T),
            (here.seq_T, step.seq_T),
            (here.slot_mapping_T, step.slot_mapping_T),
        ):
            mine_T[:tokens].copy_(given_T)
        here.positions_T[tokens:] = 0
        here.seq_T[tokens:] = int(step.seq_T[0])  # a sequence that is there, and so has a first page
        here.slot_mapping_T[tokens:] = NO_SLOT
        here.page_table_SX.copy_(step.page_table_SX[:, : here.page_table_SX.shape[1]])
        return Step(
            number=step.number,
            ids_T=here.ids_T[:tokens],
            positions_T=here.positions_T[:tokens],
            seq_T=here.seq_T[:tokens],
            slot_mapping_T=here.slot_mapping_T[:tokens],
            page_table_SX=here.page_table_SX,
            sample_rows_B=step.sample_rows_B.to(here.ids_T.device),
        )


@dataclass(frozen=True, slots=True)
class _GraphStep:
    runs: GraphRunner
    size: _Bucket
    caches: list[Tensor]
    step: Step

    def __call__(self, segment: Segment, *rows: Tensor) -> Tensors:
        tokens = len(self.step.ids_T)
        return tuple(result[:tokens] for result in self.runs.replay(self.size, segment, self.caches, rows))


def _blank(rows: int, width: int, like: Step, device: torch.device) -> Step:
    def zeros(dtype: torch.dtype) -> Tensor:
        return torch.zeros(rows, dtype=dtype, device=device)

    return Step(
        number=0,
        ids_T=zeros(torch.int64),
        positions_T=zeros(torch.int32),
        seq_T=zeros(torch.int32),
        slot_mapping_T=zeros(torch.int32),
        page_table_SX=zeros(torch.int32).new_empty((len(like.page_table_SX), width)),
        sample_rows_B=like.sample_rows_B,
    )


def _put(inputs: Tensors, rows: Tensors) -> None:
    for mine, given in zip(inputs, rows, strict=True):
        mine[: len(given)].copy_(given)
