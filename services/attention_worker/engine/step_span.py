"""The span of a step, for those steps of traced sequences that are to have one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING

from services.attention_worker.engine.sequence import SequenceTrace
from services.attention_worker.engine.step_plan import Chunk
from services.process import tracing

if TYPE_CHECKING:
    from services.process.otel import Otel

UNTRACED: AbstractContextManager[None] = nullcontext()


def step_span(number: int, chunks: Sequence[Chunk]) -> AbstractContextManager[None]:
    """A block in which the step's span is the current one, if a traced sequence of the step wants it.

    It is a child of the first such sequence's span, and linked to the spans of the others.
    """
    otel = tracing.active()
    if otel is None:
        return UNTRACED
    traces = [trace for chunk in chunks if (trace := chunk.sequence.request.trace) is not None]
    wanted = [trace for trace in traces if trace.scheduled()]
    return _span(otel, number, chunks, wanted) if wanted else UNTRACED


@contextmanager
def _span(otel: Otel, number: int, chunks: Sequence[Chunk], wanted: list[SequenceTrace]) -> Iterator[None]:
    first, *others = (trace.span for trace in wanted)
    attributes = {
        "caracal.step": number,
        "caracal.sequences": len(chunks),
        "caracal.tokens": sum(chunk.length for chunk in chunks),
        "caracal.decodes": sum(chunk.decode for chunk in chunks),
    }
    span = otel.start("step", attributes, parent=otel.below(first), links=others)
    try:
        with otel.use(span):
            yield
    finally:
        span.end()
