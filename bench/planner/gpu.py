"""Measures a GPU for `caracal plan --calibrate`: memory, products of a model's sizes, launches, the way to a peer.

What a whole step loses besides has to be fitted on steps of real clusters of GPUs, which this does not start.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bench.gpu.sizes import LONGCAT
from bench.gpu.timing import DeviceClock
from bench.planner.products import Clock, Timed, lines, products_of, timed, usual_share
from services.checkpoint.config import ModelConfig
from services.planner.device import Device, Factors

NAME, LINK = "gpu", "gpu-peer"
ROWS = (1, 64, 256)
SQUARE, COPY_SHARE, LAUNCHES = 8192, 32, 64  # of the peak's product; of the memory; in a row
SMALL, LARGE, TIMES = 64, 1 << 28, 200
VOCABULARY = 131072  # of LongCat-Flash, whose layer's sizes leave the head out


@dataclass(frozen=True, slots=True)
class Peer:
    """Seconds of half a round trip to another GPU, and bytes per second one way."""

    latency_s: float
    bytes_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """What was measured of one GPU. `launch_s`: of a kernel that does next to nothing, behind others."""

    name: str
    memory_bytes: float
    memory_bytes_s: float
    flops: dict[str, float]
    launch_s: float
    products: Sequence[Timed]
    peer: Peer | None = None


def available() -> bool:
    """Whether torch sees a GPU."""
    return torch.cuda.is_available()


def model() -> ModelConfig:
    """LongCat-Flash's sizes."""
    return ModelConfig.from_dict(
        LONGCAT | {"num_layers": 28, "max_position_embeddings": 131072, "vocab_size": VOCABULARY}
    )


def measure() -> Gpu:
    """Measures the first GPU, and the way to the second one if there is any. Under a minute."""
    device = torch.device("cuda:0")
    about = torch.cuda.get_device_properties(device)
    return measure_on(
        device,
        DeviceClock(),
        about.name,
        about.total_memory,
        model(),
        square=SQUARE,
        copy_bytes=about.total_memory // COPY_SHARE,
        peer=_peer(device, torch.device("cuda:1")) if torch.cuda.device_count() > 1 else None,
    )


def measure_on(
    device: torch.device,
    clock: Clock,
    name: str,
    memory_bytes: float,
    config: ModelConfig,
    *,
    square: int,
    copy_bytes: int,
    peer: Peer | None = None,
) -> Gpu:
    """As `measure`, on any device that torch knows."""

    def weight(outer: int, inner: int) -> Tensor:
        return torch.randn(outer, inner, device=device).mul_(0.05).bfloat16()

    def multiply(x_MK: Tensor, w_NK: Tensor) -> Tensor:
        return torch.mm(x_MK, w_NK.t())

    one = torch.zeros(1, device=device)
    x, w = weight(square, square), weight(square, square)
    flops = {"bf16": 2 * square**3 / clock.seconds([lambda: multiply(x, w)])}
    if device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 9):
        flops["fp8"] = 2 * square**3 / clock.seconds([_fp8_product(x, w)])
    launches: list[Callable[[], object]] = [lambda: one.add_(1)] * LAUNCHES
    return Gpu(
        name=name,
        memory_bytes=memory_bytes,
        memory_bytes_s=_copied_s(device, clock, copy_bytes),
        flops=flops,
        launch_s=clock.seconds(launches),
        products=timed(products_of(config), ROWS, weight, multiply, clock, device),
        peer=peer,
    )


def _copied_s(device: torch.device, clock: Clock, size: int) -> float:
    """Bytes per second, those that are read and those that are written."""
    source = torch.zeros(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * size / clock.seconds([lambda: target.copy_(source)])


def _fp8_product(x: Tensor, w: Tensor) -> Callable[[], object]:
    unit = torch.ones((), device=x.device)
    left, right = x.to(torch.float8_e4m3fn), w.to(torch.float8_e4m3fn)
    return lambda: torch._scaled_mm(left, right.t(), unit, unit, out_dtype=torch.bfloat16)


def _peer(here: torch.device, there: torch.device) -> Peer:
    """Copies to another GPU and back, by the clock of the host."""
    small, large = (torch.zeros(size, dtype=torch.uint8, device=here) for size in (SMALL, LARGE))
    small_there, large_there = torch.empty_like(small, device=there), torch.empty_like(large, device=there)

    def seconds(one: Tensor, other: Tensor, times: int, *, back: bool) -> float:
        for counted in (False, True):
            began = time.perf_counter()
            for _ in range(times if counted else 3):
                other.copy_(one, non_blocking=True)
                if back:
                    torch.cuda.synchronize(there)
                    one.copy_(other, non_blocking=True)
                    torch.cuda.synchronize(here)
            torch.cuda.synchronize(here)
            torch.cuda.synchronize(there)
        return (time.perf_counter() - began) / times

    latency_s = seconds(small, small_there, TIMES, back=True) / 2
    return Peer(latency_s, LARGE / seconds(large, large_there, 20, back=False))


def device_of(gpu: Gpu, like: Device) -> Device:
    """The GPU as the planner takes it; `like` has the factor that no single kernel shows, of overlap."""
    bare = Device(name=NAME, memory_bytes=gpu.memory_bytes, memory_bytes_s=gpu.memory_bytes_s, flops=gpu.flops)
    share = min(1.0, usual_share(gpu.products, bare))
    factors = Factors(
        efficiency=share, overlap_loss=like.factors.overlap_loss, op_s=gpu.launch_s, fitted_on="single kernels"
    )
    return Device(
        name=NAME,
        memory_bytes=gpu.memory_bytes,
        memory_bytes_s=gpu.memory_bytes_s,
        flops=gpu.flops,
        factors=factors,
    )


def profile_lines(gpu: Gpu, like: Device) -> list[str]:
    """The GPU's part of a profile, in TOML."""
    found = device_of(gpu, like)
    peaks = ", ".join(f"{dtype} = {rate / 1e12:.4g}" for dtype, rate in gpu.flops.items())
    f = found.factors
    source = f"efficiency: the median of products of a model's sizes; op: a launch; overlap loss: of {like.name}"
    said = [
        f"[devices.{NAME}]",
        f"memory_gb = {gpu.memory_bytes / 1e9:.4g}",
        f"memory_gb_s = {gpu.memory_bytes_s / 1e9:.4g}",
        f"tflops = {{ {peaks} }}",
        f'sources = {{ memory_gb_s = "measured here: a copy on {gpu.name}", tflops = "measured here: {SQUARE} cubed", '
        f'factors = "{source}" }}',
        f"factors = {{ efficiency = {f.efficiency:.4g}, overlap_loss = {f.overlap_loss:.4g}, "
        f'op_us = {1e6 * f.op_s:.4g}, fitted_on = "{f.fitted_on}" }}',
    ]
    if gpu.peer is not None:
        source = "measured here: copies to the second GPU"
        said += [
            f"[links.{LINK}]",
            f"gb_s = {gpu.peer.bytes_s / 1e9:.4g}",
            f"latency_us = {1e6 * gpu.peer.latency_s:.4g}",
            f'sources = {{ gb_s = "{source}", latency_us = "{source}" }}',
        ]
    return said + lines(gpu.products, found, "gpu")
