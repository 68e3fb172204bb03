"""Layers of real width, with attention and experts as two processes: times a decode step and its parts.

Uses as many of the 28 layers as fit, each with its 512 experts (fewer, if not even one layer fits). Both processes
share one GPU, so the shortcut can only hide the time of the host and the links, and idle time of the GPU. On separate
GPUs it would also hide the experts' kernels.
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

from bench.gpu.bench import Bench, Case, Row, SkippedCase, milliseconds
from bench.gpu.layer_slice.spec import SliceSpec
from bench.gpu.sizes import Sizes
from services.checkpoint.config import ModelConfig
from services.checkpoint.tensors import attention_tensors

SECTION = "layer slice"
REPO = Path(__file__).resolve().parents[3]
RESERVE_BYTES = 8 << 30  # two CUDA contexts, CUDA graphs, buffers of the P2P group, temporary tensors while loading
WARM_UP_STEPS = 4
LOAD_S, RUN_S = 70.0, 70.0  # timeouts, which also end at the section's deadline
NEEDED = ("grpc", "grpc_health", "grpc_reflection", "google.protobuf", "structlog", "prometheus_client")


def cases(bench: Bench) -> Iterator[Case]:
    for kind in ("bf16", "fp8"):
        yield Case(f"{kind} experts", partial(_measure, bench, kind))


def free_bytes(bench: Bench) -> int:
    """Returns the GPU memory for weights and caches."""
    free: int = (1 << 50) if bench.dry else torch.cuda.mem_get_info(bench.device)[0]
    return free - RESERVE_BYTES


def fitted(s: Sizes, kind: str, available: float) -> dict[str, Any]:
    """Returns the config with as many layers, or with one layer of as many experts, as fit the available bytes."""
    raw = s.slice_config | {"num_layers": s.slice_layers, "max_position_embeddings": s.slice_context + s.page_size}
    config = ModelConfig.from_dict(raw)
    dense, expert = layer_bytes(config, kind)
    dense += 2 * max(s.slice_rows) * s.slice_context * config.latent * 2  # its two caches
    layers = min(s.slice_layers, int(available // (dense + config.n_routed_experts * expert)))
    if layers:
        return raw | {"num_layers": layers}
    experts = max(config.moe_topk, int((available - dense) // expert))
    return raw | {"num_layers": 1, "n_routed_experts": experts}


def layer_bytes(config: ModelConfig, kind: str) -> tuple[int, int]:
    """Returns the bytes of (a layer without its experts, with the gate in fp32; one expert)."""
    dense = sum(
        math.prod(shape) * (4 if ".router." in name else 2)
        for name, shape in attention_tensors(config)
        if name.startswith("model.layers.0.")
    )
    return dense, 3 * config.hidden_size * config.expert_ffn_hidden_size * (2 if kind == "bf16" else 1)


def moved_and_flops(config: ModelConfig, kind: str, rows: int, context: int) -> tuple[int, int]:
    """Returns (bytes, flops) of one step, reading dense weights, caches and the expected set of chosen experts once."""
    dense, expert = layer_bytes(config, kind)
    chosen = config.moe_topk / config.num_gate_outputs
    touched = config.n_routed_experts * (1 - (1 - chosen) ** rows)
    keys = 2 * rows * context
    assignments = rows * config.n_routed_experts * chosen
    moved = dense + touched * expert + keys * config.latent * 2
    gate = config.num_gate_outputs * (config.hidden_size + 1)  # fp32: half as many multiplications per byte
    products = rows * (dense - 2 * gate) + assignments * 6 * config.hidden_size * config.expert_ffn_hidden_size
    attention = keys * 2 * config.num_attention_heads * (config.latent + config.kv_lora_rank)
    return int(config.num_layers * moved), int(config.num_layers * (products + attention))


def _measure(bench: Bench, kind: str) -> Sequence[Row | SkippedCase]:
    if missing := [name for name in NEEDED if not _installed(name)]:
        return [SkippedCase(SECTION, f"{kind} experts", f"skipped: not installed here: {', '.join(missing)}")]
    s = bench.sizes
    spec = SliceSpec(
        config=fitted(s, kind, free_bytes(bench)), kind=kind, device=bench.device.type,
        rows=s.slice_rows, context=s.slice_context, page_size=s.page_size,
        warm_up=1 if bench.dry else WARM_UP_STEPS, steps=s.slice_steps,
    )  # fmt: skip
    found: list[Row | SkippedCase] = []
    with tempfile.TemporaryDirectory(prefix="caracal-slice-") as folder:
        logs = [Path(folder) / f"{role}.log" for role in ("experts", "attention")]
        with child("bench.gpu.layer_slice.experts", spec, logs[0]) as experts:
            address = experts.next(_until(bench, LOAD_S))
            assert address is not None, "`next` raises when the expert process exits early"
            with child(
                "bench.gpu.layer_slice.attention", replace(spec, address=address["address"]), logs[1]
            ) as attention:
                deadline_s = time.monotonic() + _until(bench, RUN_S)
                try:
                    while (answer := attention.next(deadline_s - time.monotonic())) is not None:
                        found.append(_row(bench, spec, answer))
                except TimeoutError as error:
                    found.append(SkippedCase(SECTION, f"{kind} experts, remaining cases", str(error)))
    return found


def _installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # its parent package is missing
        return False


def _until(bench: Bench, most_s: float) -> float:
    return min(most_s, bench.deadline_s - time.monotonic())


def _row(bench: Bench, spec: SliceSpec, answer: dict[str, Any]) -> Row | SkippedCase:
    config = ModelConfig.from_dict(spec.config)
    size = f"{config.num_layers} layers of {config.n_routed_experts} experts, {spec.kind}"
    if "skipped" in answer:
        return SkippedCase(SECTION, f"{size}, {answer['link']}", answer["skipped"])
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
        baseline="without overlap",
        baseline_s=plain_s,
        note=f"dense {milliseconds(dense_s)} + experts {milliseconds(experts_s)} = "
        f"{milliseconds(dense_s + experts_s)}; the shortcut hides {milliseconds(plain_s - step_s)}",
        parts=t,
    )


class Child:
    """A process that prints lines of JSON."""

    def __init__(self, process: subprocess.Popen[str], log: Path) -> None:
        self._process, self._log = process, log
        self._lines: SimpleQueue[str] = SimpleQueue()
        Thread(target=self._read, daemon=True).start()

    def next(self, seconds: float) -> dict[str, Any] | None:
        """Returns the next line, or None after a clean exit. Raises TimeoutError, and RuntimeError after a failure."""
        try:
            line = self._lines.get(timeout=max(0.0, seconds))
        except Empty:
            raise TimeoutError(f"no answer in time; last log line: {self._last_log_line()}") from None
        if line:
            answer: dict[str, Any] = json.loads(line)
            return answer
        if self._process.wait(30):
            raise RuntimeError(
                f"a process of the slice exited with {self._process.returncode}: {self._last_log_line()}"
            )
        return None

    def _read(self) -> None:
        assert self._process.stdout
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put("")

    def _last_log_line(self) -> str:
        lines = self._log.read_text(errors="replace").splitlines()
        return lines[-1][:300] if lines else "(empty log)"


@contextmanager
def child(module: str, spec: SliceSpec, log: Path) -> Iterator[Child]:
    """Runs a module of the slice; closes its stdin when the block ends, and kills it 10 s later."""
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
