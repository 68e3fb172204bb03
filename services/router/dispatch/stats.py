"""Counters of the expert dispatch. Written by the engine's thread alone, read by any.

Bytes are payload bytes of hidden rows, counted as they are handed over; headers, ids and checksums are not in them.
One row comes back per (token, FFN choice), so `bytes_received / bytes_if_all_ffn` is exactly the share of choices that
went to FFN experts: `ffn_choices / choices`. Rows go out once per (token, worker), which is fewer: `bytes_sent`.

Legend: T tokens, K choices, D hidden, L layers, N counters.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from services.router.dispatch.send import RoutedBatch, SentBatch


@dataclass(slots=True)
class LayerStats:
    """Sums since the process started, over one layer or over all."""

    layer_calls: int = 0  # calls of `start`
    exposed_s: float = 0.0  # spent in `wait`: until the last reply had arrived and was taken in
    round_trip_s: float = 0.0  # from the end of the gate until the same moment, less the time a reply lay ready
    choices: int = 0  # tokens * top-k
    ffn_choices: int = 0  # of these, chosen FFN experts
    tokens: int = 0
    tokens_all_zero: int = 0  # tokens that chose zero experts only: nothing was sent for them
    messages_sent: int = 0
    rows_sent: int = 0  # a token counts once per worker it went to; retries count again
    assignments_sent: int = 0  # (token, expert); retries count again
    bytes_sent: int = 0  # of rows_sent, in the dtype they travel in, scales included
    bytes_received: int = 0  # of the replies that were combined: each assignment once, retried or not
    bytes_if_all_ffn: int = 0  # choices * bytes of one row: what would come back without zero experts
    retries: int = 0  # messages sent because an earlier one brought no answer
    stale_epoch_rejections: int = 0  # calls rejected for their epoch
    hedges: int = 0  # messages sent beside one that is overdue
    hedges_won: int = 0  # calls whose rows came from those

    def count_start(self, sent: SentBatch, batch: RoutedBatch) -> None:
        """Counts one call of `start`, after its messages have left."""
        tokens, choices = batch.ids_TK.shape
        self.layer_calls += 1
        self.tokens += tokens
        self.choices += tokens * choices
        self.bytes_if_all_ffn += tokens * choices * row_bytes(batch.h_TD)
        if sent.complete and sent.messages < 2:
            self.ffn_choices += sent.assignments
            self.tokens_all_zero += tokens - sent.rows
        else:
            ffn_TK = sent.reply_index_TK != -1
            self.ffn_choices += int(ffn_TK.sum())
            self.tokens_all_zero += tokens - int(ffn_TK.any(1).sum())
        self.count_sent(sent)

    def count_sent(self, sent: SentBatch) -> None:
        """Counts messages that have left."""
        self.messages_sent += sent.messages
        self.rows_sent += sent.rows
        self.assignments_sent += sent.assignments
        self.bytes_sent += sent.bytes


def row_bytes(h_TD: Tensor) -> int:
    """Returns the payload bytes of one hidden row."""
    return h_TD.shape[1] * h_TD.itemsize


# The counters that native code adds to, in its order.
NATIVE_COUNTS = (
    "layer_calls",
    "choices",
    "ffn_choices",
    "tokens",
    "tokens_all_zero",
    "messages_sent",
    "rows_sent",
    "assignments_sent",
    "bytes_sent",
    "bytes_received",
    "bytes_if_all_ffn",
)
NATIVE_SECONDS = ("exposed_s", "round_trip_s")


@dataclass(frozen=True, slots=True)
class DispatchStats:
    """The counters of every layer: what Python has counted, and what native code has."""

    counted: tuple[LayerStats, ...]  # by Python
    count_LN: Tensor  # int64, by native code; N are NATIVE_COUNTS
    seconds_LN: Tensor  # float64, by native code; N are NATIVE_SECONDS

    @classmethod
    def of(cls, num_layers: int) -> DispatchStats:
        return cls(
            tuple(LayerStats() for _ in range(num_layers)),
            torch.zeros(num_layers, len(NATIVE_COUNTS), dtype=torch.int64),
            torch.zeros(num_layers, len(NATIVE_SECONDS), dtype=torch.float64),
        )

    @property
    def layers(self) -> tuple[LayerStats, ...]:
        """Each layer's sums up to now."""
        names = NATIVE_COUNTS + NATIVE_SECONDS
        rows = zip(self.count_LN.tolist(), self.seconds_LN.tolist(), strict=True)
        native = (counts + seconds for counts, seconds in rows)
        return tuple(
            replace(layer, **{name: getattr(layer, name) + more for name, more in zip(names, values, strict=True)})
            for layer, values in zip(self.counted, native, strict=True)
        )

    @property
    def layer_calls(self) -> int:
        """Layers that were begun, a step's each counted."""
        return self.native_layer_calls + sum(layer.layer_calls for layer in self.counted)

    @property
    def native_layer_calls(self) -> int:
        """Layers run by native code, a step's each counted; those included that Python had to finish."""
        return int(self.count_LN[:, NATIVE_COUNTS.index("layer_calls")].sum())

    def total(self) -> LayerStats:
        """Returns the sums over all layers."""
        layers = self.layers
        return LayerStats(**{f.name: sum(getattr(layer, f.name) for layer in layers) for f in fields(LayerStats)})
