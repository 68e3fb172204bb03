"""A small cluster for tests of the simulator: two layers of 16 experts, a few workers."""

from __future__ import annotations

from typing import Any

from services.planner.device import Device, Factors, Link
from services.planner.serving import Serving
from services.planner.shape import Shape, mla
from services.simulator.deployment import Deployment, Timing
from services.simulator.simulation import Scenario
from services.simulator.traffic import Arrivals, Kind, Lengths, Phase

SHAPE = Shape(
    name="small",
    layers=2,
    hidden=1024,
    vocabulary=4096,
    attention=mla(1024, 8),
    experts=16,
    zero=8,
    top_k=4,
    expert_ffn=512,
    sublayers=2,
    dense_ffn=2048,
    shortcut=True,
)
DEVICE = Device(
    name="device",
    memory_bytes=1e10,
    memory_bytes_s=2e11,
    flops={"bf16": 5e12, "fp8": 1e13},
    factors=Factors(efficiency=0.9, overlap_loss=0.5, op_s=2e-5, step_s=1e-3, row_s=1e-4),
)
LINK = Link(name="link", bytes_s=1e9, latency_s=5e-5, message_s=2e-6)
KIND = Kind(
    prompt=Lengths(mean=120, median=100, most=600), answer=Lengths(mean=60, median=40, most=300), source="these tests"
)


def deployment(**changes: Any) -> Deployment:
    given: dict[str, Any] = {
        "shape": SHAPE,
        "device": DEVICE,
        "expert_device": DEVICE,
        "link": LINK,
        "serving": Serving(deduplicated=True),
        "attention": 3,
        "experts": 4,
        "pages": 400,
        "page_size": 16,
        "routers": 2,
        "replicas": 2,
        "max_running": 16,
        "max_batch_tokens": 256,
        "pods_per_node": 1,
        "timing": Timing(pod_s=5.0, attention_load_s=2.0, drain_s=2.0, node_back_s=20.0),
    }
    return Deployment(**given | changes)


def scenario(rate: float = 20.0, seconds: float = 20.0, *, callers: int = 1000, **changes: Any) -> Scenario:
    """`changes`: of the scenario, and of its deployment in a dictionary of that name."""
    shaped = deployment(**changes.pop("deployment", {}))
    arrivals = Arrivals(phases=[Phase(0.0, rate)], seconds=seconds, kind=KIND, callers=callers)
    given: dict[str, Any] = {"deployment": shaped, "arrivals": arrivals.generate, "seconds": seconds}
    return Scenario(**given | changes)
