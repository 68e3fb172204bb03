"""What this machine could do at most: bytes and FLOPs of a step of the model, over measured peaks of both.

A step reads every weight of the attention side once, of the FFN experts those that any of its tokens chose, and the
caches of its sequences. Caches of the CPU that keep weights between two steps can lift a small model above the ceiling
of memory.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from bench.compiled import build
from bench.row import Row
from services.checkpoint.config import ModelConfig
from services.checkpoint.tensors import EMBEDDING, attention_tensors

MIB, ROUNDS = 512, 9
SMOKE_MIB = 64
VALUE_BYTES, GATE_BYTES = 2, 4  # bf16; the gate's matrix is fp32
SECTION = "Roofline of this machine"


@dataclass(frozen=True, slots=True)
class Work:
    """Bytes read and floating-point operations of one decode step."""

    bytes: float
    flops: float


@dataclass(frozen=True, slots=True)
class Peaks:
    """What all cores do together per second."""

    bytes_s: float
    flops_s: float

    def seconds(self, work: Work) -> float:
        """The least time of some work: its bytes and its products at the same time."""
        return max(work.bytes / self.bytes_s, work.flops / self.flops_s)


def step_work(c: ModelConfig, streams: int, context: int) -> Work:
    """A decode step of `streams` sequences of `context` tokens, if the gate chooses evenly."""
    matrices = [(name, prod(shape)) for name, shape in attention_tensors(c) if len(shape) == 2 and name != EMBEDDING]
    dense_bytes = sum(count * (GATE_BYTES if "classifier" in name else VALUE_BYTES) for name, count in matrices)
    dense_flops = 2 * streams * sum(count for _, count in matrices)
    expert = 3 * c.hidden_size * c.expert_ffn_hidden_size
    chosen = c.moe_topk * c.n_routed_experts / c.num_gate_outputs  # FFN experts of a token
    touched = c.n_routed_experts * (1 - (1 - c.moe_topk / c.num_gate_outputs) ** streams)
    keys = 2 * c.num_layers * streams * context
    return Work(
        dense_bytes + c.num_layers * touched * expert * VALUE_BYTES + keys * c.latent * VALUE_BYTES,
        dense_flops
        + 2 * streams * c.num_layers * chosen * expert
        + 2 * keys * c.num_attention_heads * (c.latent + c.kv_lora_rank),
    )


def measure(mib: int = MIB, rounds: int = ROUNDS) -> dict[str, Any]:
    """Peaks with one thread and with one per core. Raises CannotMeasure."""
    with tempfile.TemporaryDirectory() as folder:
        program = build("roofline", Path(folder), ["-march=native"])
        command = [str(program), str(os.cpu_count() or 1), str(mib), str(rounds)]
        found: dict[str, Any] = json.loads(subprocess.check_output(command, timeout=300))
    return found


def peaks_of(measured: dict[str, Any]) -> Peaks:
    """The peaks of all cores, with the better kind of pages."""
    everything = measured["all"]
    return Peaks(max(everything["plain_bytes_s"], everything["huge_bytes_s"]), everything["flops_s"])


def rows_of_machine(measured: dict[str, Any]) -> list[Row]:
    rows = []
    for threads, name in (("one", "1 thread"), ("all", f"{os.cpu_count()} threads")):
        peak = measured[threads]
        for what, key, unit in (
            ("reads, plain pages", "plain_bytes_s", "GB/s"),
            ("reads, huge pages", "huge_bytes_s", "GB/s"),
            (f"products of bf16 matrices, by {measured['instructions']}", "flops_s", "GFLOP/s"),
        ):
            rows.append(Row(what, peak[key] / 1e9, unit, section=SECTION, column=name, key=f"peak/{key}/{threads}"))
    return rows


def rows_of_model(c: ModelConfig, measured: dict[str, Any], context: int, decode: dict[int, float]) -> list[Row]:
    """The ceiling at each number of streams, and the share of it that `decode`, tokens/s by streams, reaches."""
    peaks, rows = peaks_of(measured), []
    for streams, reached in decode.items():
        work = step_work(c, streams, context)
        ceiling = streams / peaks.seconds(work)
        for what, value, unit, key in (
            ("bytes of a step", work.bytes / 1e6, "MB", "bytes"),
            ("operations of a step", work.flops / 1e9, "GFLOP", "flops"),
            ("ceiling", ceiling, "tokens/s", "ceiling"),
            ("reached over HTTP", 100 * reached / ceiling, "%", "share"),
        ):
            rows.append(
                Row(
                    what,
                    value,
                    unit,
                    section="Roofline of the model",
                    column=f"{streams} stream{'s' * (streams > 1)}",
                    key=f"roofline/{key}/{streams}",
                )
            )
    return rows
