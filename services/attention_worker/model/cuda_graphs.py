"""Runs the dense segments of a step: eagerly, or as CUDA graphs.

A segment is the dense work between two calls of the dispatcher (`start` and `finish`). On a GPU a decode step's segment
is many small launches, so it is captured once for each bucket of batch sizes and then replayed as one CUDA graph. A
graph has a fixed number of rows, so steps are padded. No row reads another, so padding does not change the results;
padding rows are at position 0 and write nothing to the cache.
Legend: T tokens, S rows of the page table, X pages of a row, B sampled rows.
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
PADDING_SLOT_MAPPING = -1  # writes no latent

Tensors = tuple[Tensor, ...]
Segment = Callable[..., Tensors]  # (step, caches, *rows) -> rows; must be a pure function of them but for the caches


class SegmentStep(Protocol):
    """Runs the segments of one step."""

    @property
    def step(self) -> Step:
        """The step on the model's device."""
        ...

    def __call__(self, segment: Segment, *rows: Tensor) -> Tensors: ...


class SegmentRunner(Protocol):
    """Chooses how the segments of a step are run."""

    def begin(self, step: Step, caches: list[Tensor]) -> SegmentStep: ...


@dataclass(frozen=True, slots=True)
class EagerStep:
    """Runs segments without a graph."""

    step: Step
    caches: list[Tensor]

    def __call__(self, segment: Segment, *rows: Tensor) -> Tensors:
        return segment(self.step, self.caches, *rows)


@dataclass(frozen=True, slots=True)
class EagerRunner:
    """Runs steps of any size without graphs."""

    device: torch.device

    def begin(self, step: Step, caches: list[Tensor]) -> SegmentStep:
        return EagerStep(step.to(self.device), caches)


class GraphCapture(Protocol):
    """Captures work as a graph."""

    def record(self, work: Callable[[], Tensors]) -> tuple[Callable[[], None], Tensors]:
        """Returns (a function that runs `work` again, the tensors into which it then writes its results)."""
        ...


class CudaGraphCapture:
    """Captures CUDA graphs, which share one memory pool since no two of them run at the same time."""

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()

    def record(self, work: Callable[[], Tensors]) -> tuple[Callable[[], None], Tensors]:
        work()  # compiles and loads its kernels: neither may happen in a capture
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        # Other threads launch and allocate meanwhile; only calls of this thread may invalidate the capture.
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            results = work()
        return graph.replay, results


class GraphRunner:
    """Replays graphs for steps of at most BUCKETS[-1] tokens; runs larger steps eagerly."""

    def __init__(self, device: torch.device, capture: GraphCapture) -> None:
        self._eager, self._capture = EagerRunner(device), capture
        self._buckets: dict[tuple[int, int], _Bucket] = {}
        self._caches: list[Tensor] = []
        self.graphs = 0

    def begin(self, step: Step, caches: list[Tensor]) -> SegmentStep:
        tokens = len(step.ids_T)
        if not 0 < tokens <= BUCKETS[-1]:
            return self._eager.begin(step, caches)
        if caches is not self._caches:  # a graph reads and writes the caches that it was captured with
            self._caches, self._buckets = caches, {}
        rows = BUCKETS[bisect_left(BUCKETS, tokens)]
        # Attention's grid depends on the page table's width, so a graph has a fixed width too.
        width = min(step.page_table_SX.shape[1], 1 << (step.pages - 1).bit_length())
        if (rows, width) not in self._buckets:
            self._buckets[rows, width] = _Bucket(_blank(rows, width, step, self._eager.device), {})
        bucket = self._buckets[rows, width]
        return _GraphStep(self, bucket, caches, bucket.fill(step))

    def replay(self, bucket: _Bucket, segment: Segment, caches: list[Tensor], rows: Tensors) -> Tensors:
        """Runs the segment over `rows`, padded; the results have all rows of the bucket."""
        graph = bucket.graphs.get(segment)
        if graph is None:
            inputs = tuple(row.new_zeros((len(bucket.step.ids_T), *row.shape[1:])) for row in rows)
            _copy_rows(inputs, rows)
            replay, results = self._capture.record(lambda: segment(bucket.step, caches, *inputs))
            graph = bucket.graphs[segment] = _CapturedGraph(inputs, replay, results)
            self.graphs += 1
        _copy_rows(graph.inputs, rows)
        graph.replay()
        return graph.results


def runner_for(device: torch.device, ranks: int = 1) -> SegmentRunner:
    """A GraphRunner on a GPU; an EagerRunner on a CPU, and where ranks gather inside a segment."""
    return GraphRunner(device, CudaGraphCapture()) if device.type == "cuda" and ranks == 1 else EagerRunner(device)


@dataclass(frozen=True, slots=True)
class _CapturedGraph:
    inputs: Tensors
    replay: Callable[[], None]
    results: Tensors


@dataclass(frozen=True, slots=True)
class _Bucket:
    """The padded step that graphs of one size read, and those graphs."""

    step: Step
    graphs: dict[Segment, _CapturedGraph]

    def fill(self, step: Step) -> Step:
        """Copies a step into the padded one; returns the padded one's part without padding."""
        padded, tokens = self.step, len(step.ids_T)
        for to_T, from_T in (
            (padded.ids_T, step.ids_T),
            (padded.positions_T, step.positions_T),
            (padded.seq_T, step.seq_T),
            (padded.slot_mapping_T, step.slot_mapping_T),
        ):
            to_T[:tokens].copy_(from_T)
        padded.positions_T[tokens:] = 0
        padded.seq_T[tokens:] = int(step.seq_T[0])  # any running sequence: padding rows need a first page to read
        padded.slot_mapping_T[tokens:] = PADDING_SLOT_MAPPING
        padded.page_table_SX.copy_(step.page_table_SX[:, : padded.page_table_SX.shape[1]])
        return Step(
            number=step.number,
            ids_T=padded.ids_T[:tokens],
            positions_T=padded.positions_T[:tokens],
            seq_T=padded.seq_T[:tokens],
            slot_mapping_T=padded.slot_mapping_T[:tokens],
            page_table_SX=padded.page_table_SX,
            sample_rows_B=step.sample_rows_B.to(padded.ids_T.device),
            context_TN=step.context_TN,
        )


@dataclass(frozen=True, slots=True)
class _GraphStep:
    runner: GraphRunner
    bucket: _Bucket
    caches: list[Tensor]
    step: Step

    def __call__(self, segment: Segment, *rows: Tensor) -> Tensors:
        tokens = len(self.step.ids_T)
        return tuple(result[:tokens] for result in self.runner.replay(self.bucket, segment, self.caches, rows))


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
        context_TN=like.context_TN,
    )


def _copy_rows(inputs: Tensors, rows: Tensors) -> None:
    for padded, given in zip(inputs, rows, strict=True):
        padded[: len(given)].copy_(given)
