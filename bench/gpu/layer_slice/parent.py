"""Layers of real width, attention and experts as two processes: a decode step against the sum of its parts.

As many of the 28 layers as fit, each with its 512 experts (fewer, if not even one layer fits). Both processes share one
GPU: their kernels take turns there, so what can be hidden is the host's and the links' time and what the other leaves
idle. On GPUs of their own the expert's kernels would be hidden, too.
"""

from __future__ import annotations

import importlib.util
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any

import torch

from bench.gpu.bench import Bench, Case, Left, Row, milliseconds
from bench.gpu.layer_slice.spec import SliceSpec
from bench.gpu.sizes import Sizes
from services.checkpoint.config import ModelConfig
from services.checkpoint.tensors import attention_tensors

SECTION = "layer slice"
REPO = Path(__file__).resolve().parents[3]
RESERVE_BYTES = 8 << 30  # two CUDA contexts, recordings, buffers of the pair, what is drawn and copied while loading
WARM_UP = 4  # steps
LOAD_S, RUN_S = 70.0, 70.0  # at most, and never past the section's deadline
NEEDED = ("grpc", "grpc_health", "grpc_reflection", "google.protobuf", "structlog", "prometheus_client")


def cases(bench: Bench) -> Iterator[Case]:
    for kind in ("bf16", "fp8"):
        yield Case(f"{kind} experts", partial(_measure, bench, kind))


def room(bench: Bench) -> int:
    """Bytes for weights and caches."""
    free: int = (1 << 50) if bench.dry else torch.cuda.mem_get_info(bench.device)[0]
    return free - RESERVE_BYTES


def fitted(s: Sizes, kind: str, room: float) -> dict[str, Any]:
    """The config with as many layers, else as many experts, as `room` is for."""
    raw = s.slice_config | {"num_layers": s.slice_layers, "max_position_embeddings": s.slice_context + s.page_size}
    config = ModelConfig.from_dict(raw)
    dense, expert = layer_bytes(config, kind)
    dense += 2 * max(s.slice_rows) * s.slice_context * config.latent * 2  # its two caches
    layers = min(s.slice_layers, int(room // (dense + config.n_routed_experts * expert)))
    if layers:
        return raw | {"num_layers": layers}
    experts = max(config.moe_topk, int((room - dense) // expert))
    return raw | {"num_layers": 1, "n_routed_experts": experts}


def layer_bytes(config: ModelConfig, kind: str) -> tuple[int, int]:
    """(a layer without its experts, the gate in fp32; one expert)."""
    dense = sum(
        math.prod(shape) * (4 if ".router." in name else 2)
        for name, shape in attention_tensors(config)
        if name.startswith("model.layers.0.")
    )
    return dense, 3 * config.hidden_size * config.expert_ffn_hidden_size * (2 if kind == "bf16" else 1)


def moved_and_flops(config: ModelConfig, kind: str, rows: int, context: int) -> tuple[int, int]:
    """Of one step: dense weights, caches and the experts that some row is expected to choose, each read once."""
    dense, expert = layer_bytes(config, kind)
    chosen = config.moe_topk / config.num_gate_outputs
    touched = config.n_routed_experts * (1 - (1 - chosen) ** rows)
    keys = 2 * rows * context
    pairs = rows * config.n_routed_experts * chosen
    moved = dense + touched * expert + keys * config.latent * 2
    gate = config.num_gate_outputs * (config.hidden_size + 1)  # fp32, so half as many products as bytes tell
    products = rows * (dense - 2 * gate) + pairs * 6 * config.hidden_size * config.expert_ffn_hidden_size
    attention = keys * 2 * config.num_attention_heads * (config.latent + config.kv_lora_rank)
    return int(config.num_layers * moved), int(config.num_layers * (products + attention))


def _measure(bench: Bench, kind: str) -> Sequence[Row | Left]:
    if missing := [name for name in NEEDED if not _installed(name)]:
        return [Left(SECTION, f"{kind} experts", f"skipped: not installed here: {', '.join(missing)}")]
    s = bench.sizes
    spec = SliceSpec(
        config=fitted(s, kind, room(bench)), kind=kind, device=bench.device.type,
        rows=s.slice_rows, context=s.slice_context, page_size=s.page_size,
        warm_up=1 if bench.dry else WARM_UP, steps=s.slice_steps,
    )  # fmt: skip
    found: list[Row | Left] = []
    with tempfile.TemporaryDirectory(prefix="caracal-slice-") as folder:
        logs = [Path(folder) / f"{role}.log" for role in ("experts", "attention")]
        with child("bench.gpu.layer_slice.experts", spec, logs[0]) as experts:
            address = experts.next(_until(bench, LOAD_S))
            assert address is not None, "an expert worker that ends before it has answered raises"
            with child(
                "bench.gpu.layer_slice.attention", replace(spec, address=address["address"]), logs[1]
            ) as attention:
                deadline_s = time.monotonic() + _until(bench, RUN_S)
                try:
                    while (answer := attention.next(deadline_s - time.monotonic())) is not None:
                        found.append(_row(bench, spec, answer))
                except TimeoutError as error:
                    found.append(Left(SECTION, f"{kind} experts, what was left", str(error)))
    return found


def _installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # of the package around it
        return False


def _until(bench: Bench, most_s: float) -> float:
    return min(most_s, bench.deadline_s - time.monotonic())


def _row(bench: Bench, spec: SliceSpec, answer: dict[str, Any]) -> Row | Left:
    config = ModelConfig.from_dict(spec.config)
    size = f"{config.num_layers} layers of {config.n_routed_experts} experts, {spec.kind}"
    if "left" in answer:
        return Left(SECTION, f"{size}, {answer['link']}", answer["left"])
    rows, t = answer["rows"], answer["seconds"]
    if bench.dry:
        t = dict.fromkeys(t, math.nan)
    moved, flops = moved_and_flops(config, spec.kind, rows, spec.context)
    bound, floor_s = bench.ceilings.binding(moved, flops, "bf16")
    step_s, plain_s = t["with overlap"], t["without overlap"]
    dense_s, experts_s = t["dense path alone"], t["experts' round trips alone"]
    return Row(
        section=SECTION,
        case=f"{size}, {answer['link']}, {rows} rows, {spec.context} keys each",
        seconds=step_s,
        bytes=moved,
        flops=flops,
        bound=bound,
        floor_s=floor_s,
        rival="without overlap",
        rival_s=plain_s,
        note=f"dense {milliseconds(dense_s)} + experts {milliseconds(experts_s)} = "
        f"{milliseconds(dense_s + experts_s)}; the shortcut hides {milliseconds(plain_s - step_s)}",
        parts=t,
    )


class Child:
    """A process that says lines of JSON."""

    def __init__(self, process: subprocess.Popen[str], log: Path) -> None:
        self._process, self._log = process, log
        self._lines: SimpleQueue[str] = SimpleQueue()
        Thread(target=self._read, daemon=True).start()

    def next(self, seconds: float) -> dict[str, Any] | None:
        """Its next line; None when it has ended well. Raises TimeoutError, and RuntimeError when it ended badly."""
        try:
            line = self._lines.get(timeout=max(0.0, seconds))
        except Empty:
            raise TimeoutError(f"no answer in time; {self._last()}") from None
        if line:
            answer: dict[str, Any] = json.loads(line)
            return answer
        if self._process.wait(30):
            raise RuntimeError(f"a process of the slice ended with {self._process.returncode}: {self._last()}")
        return None

    def _read(self) -> None:
        assert self._process.stdout
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put("")

    def _last(self) -> str:
        lines = self._log.read_text(errors="replace").splitlines()
        return lines[-1][:300] if lines else "its log is empty"


@contextmanager
def child(module: str, spec: SliceSpec, log: Path) -> Iterator[Child]:
    """Ended, and after 10 s killed, when the block ends."""
    path = os.pathsep.join([*(str(REPO / part) for part in ("", "kernels", "proto")), os.environ.get("PYTHONPATH", "")])
    with log.open("w") as sink:
        process = subprocess.Popen(
            [sys.executable, "-m", module, spec.as_argument()],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=sink, text=True,
            env=os.environ | {"PYTHONPATH": path}, cwd=REPO,
        )  # fmt: skip
    try:
        yield Child(process, log)
    finally:
        assert process.stdin
        process.stdin.close()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
