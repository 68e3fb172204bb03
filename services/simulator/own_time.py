"""What an attention worker computes for one layer of a step with decodes and chunks of prompts, by the planner.

Rows of prompts are rows of the same products; keys of prompts cost operations, those of decodes the reading of the
cache, too. Legend: r rows, b decodes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from services.planner import attention, dense
from services.planner.exchange import Exchange, choices_of, exchange
from services.planner.layer import EXCHANGE_OPS
from services.planner.serving import Load
from services.planner.step import outside_s
from services.planner.work import Work
from services.simulator.deployment import Deployment


@dataclass(frozen=True, slots=True)
class OwnTime:
    """Seconds of one layer, without cores; and what travels for it."""

    projections: float  # of one sublayer
    mlp: float  # of one sublayer
    gate: float
    extra: float
    trip: Exchange
    messages: float  # seconds of them


class OwnTimes:
    """The parts of a step's time that depend on numbers of rows alone are computed once for each number."""

    def __init__(self, deployment: Deployment) -> None:
        self._d = deployment
        self.of = lru_cache(maxsize=1 << 14)(self._of)
        self.outside_s = lru_cache(maxsize=1 << 12)(self._outside_s)

    def _of(self, rows: int, expert_workers: int) -> OwnTime:
        d, a, serving = self._d, self._d.shape.attention, self._d.serving
        device, link = d.device, d.link
        trip = exchange(d.shape, rows / serving.tp, expert_workers, serving)
        handled = rows / serving.tp * choices_of(d.shape, serving) * link.row_s
        messages = trip.messages * link.message_s + handled
        return OwnTime(
            projections=attention.qkv(a, rows, serving.dense_dtype, serving.tp).seconds(device)
            + attention.out(a, rows, serving.dense_dtype, serving.tp).seconds(device),
            mlp=dense.mlp(d.shape, rows, serving.dense_dtype, max(serving.tp, serving.mlp_tp)).seconds(device),
            gate=dense.gate(d.shape, rows).seconds(device),
            extra=Work(ops=EXCHANGE_OPS).seconds(device) + messages,
            trip=trip,
            messages=messages,
        )

    def _outside_s(self, decodes: int) -> float:
        """Seconds outside the layers; a step of prompts alone has one row at the head, too."""
        return outside_s(self._d.shape, Load(max(1, decodes), 0.0), self._d.serving, self._d.device)

    def core_s(self, decodes: int, decode_keys: float, prompt_keys: float) -> float:
        """Seconds of one sublayer's scores and values. Keys are counted once for each row that attends to them."""
        d, a, serving = self._d, self._d.shape.attention, self._d.serving
        seconds = 0.0
        if decodes:
            seconds = attention.core_s(
                a, decodes, decodes, decode_keys / decodes, serving.kv_dtype, d.device, serving.tp
            )
        else:
            seconds = attention.CORE_OPS * d.device.factors.op_s
        if prompt_keys:
            peak = d.device.attention_flops or d.device.gemm_flops("bf16")
            seconds += prompt_keys * a.key_flops / serving.tp / peak / d.device.factors.efficiency
        return seconds
