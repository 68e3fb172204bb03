"""What travels between attention and experts for one layer, and how long it takes.

A token's row goes out once per choice of an FFN expert (a library that copies), or once per worker that holds one of
its experts (`deduplicated`); zero experts send nothing. One row per choice comes back. Legend: r rows, n workers.
"""

from __future__ import annotations

from dataclasses import dataclass

from services.planner.device import Link
from services.planner.serving import Serving
from services.planner.shape import BYTES, Shape


@dataclass(frozen=True, slots=True)
class Exchange:
    """What one attention worker exchanges for one layer: bytes out and back, and messages each way."""

    out_bytes: float
    back_bytes: float
    messages: float

    def out_s(self, link: Link, receivers_share: float = 1.0) -> float:
        """Seconds until the last row is there. `receivers_share`: bytes into a receiver over bytes out of a sender."""
        return _seconds(self.out_bytes, self.messages, link, receivers_share)

    def back_s(self, link: Link, senders_share: float = 1.0) -> float:
        return _seconds(self.back_bytes, self.messages, link, senders_share)


def _seconds(size: float, messages: float, link: Link, other_end: float) -> float:
    if size <= 0:
        return 0.0
    return size * max(1.0, other_end) / link.bytes_s + link.latency_s + messages * link.message_s


def workers_reached(choices: float, workers: float) -> float:
    """How many of `workers` hold at least one of a token's `choices`, if experts are spread evenly."""
    return workers * (1 - (1 - 1 / workers) ** choices) if workers > 1 else min(1.0, choices)


def exchange(shape: Shape, rows: float, workers: float, serving: Serving) -> Exchange:
    """The exchange of `rows` with so many expert workers."""
    choices = choices_of(shape, serving)
    reached = workers_reached(choices, workers)
    copies = reached if serving.deduplicated else choices
    messages = workers * (1 - (1 - min(1.0, reached / workers)) ** rows) if workers > 1 else 1.0
    return Exchange(
        out_bytes=rows * copies * shape.hidden * BYTES[serving.out_dtype],
        back_bytes=rows * (reached if serving.summed else choices) * shape.hidden * BYTES[serving.back_dtype],
        messages=messages,
    )


def choices_of(shape: Shape, serving: Serving) -> float:
    """How many rows a token sends in a layer: of its FFN experts, or of all choices where zero experts travel too."""
    return shape.ffn_choices if serving.zeros_stay else float(shape.top_k)
