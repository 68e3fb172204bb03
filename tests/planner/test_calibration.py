"""What `caracal plan --calibrate` measures besides clusters: products, a GPU; and the profile of it."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from support.small_simulation import SHAPE

from bench.gpu.sizes import LONGCAT
from bench.planner import gpu
from bench.planner.points import Measured
from bench.planner.products import HostClock, Product, Timed, distinct, lines, on_one_core, products_of, usual_share
from bench.planner.profile import profile
from bench.planner.socket_link import SocketLink
from services.checkpoint.config import ModelConfig
from services.cli.planning.profiles import device, link
from services.planner.device import Device
from services.planner.layer import Pools
from services.planner.one_machine import Point, step

SMALL = {**LONGCAT, "hidden_size": 64, "ffn_hidden_size": 128, "expert_ffn_hidden_size": 32, "num_attention_heads": 4}
CONFIG = {"num_layers": 2, "max_position_embeddings": 4096, "vocab_size": 256, "q_lora_rank": 48, "kv_lora_rank": 32}
CORE = Device(name="cpu", memory_bytes=1e9, memory_bytes_s=1e10, flops={"bf16": 1e11})


def config() -> ModelConfig:
    return ModelConfig.from_dict(SMALL | CONFIG)


def test_products_are_all_matrices_of_a_layer_and_the_head() -> None:
    c = gpu.model()
    sizes = {one.name: (one.inner, one.outer) for one in products_of(c)}
    assert sizes["expert in"] == (6144, 4096)
    assert sizes["attention's output"] == (8192, 6144)
    assert sizes["queries and latents"] == (6144, 1536 + 512 + 64)
    assert sizes["head"] == (6144, 131072)
    twice = distinct([Product("a", 2, 3), Product("b", 2, 3), Product("c", 3, 2)])
    assert [one.name for one in twice] == ["a", "c"]


def test_a_share_of_the_roofline_is_of_memory_or_of_products_whichever_binds() -> None:
    product = Product("p", 1000, 1000)  # 2 MB of weights: 200 us of memory
    assert Timed(product, 1, 400e-6).share(CORE) == pytest.approx(0.5)
    assert Timed(product, 1000, 40e-3).share(CORE) == pytest.approx(0.5)  # 20 ms of products
    found = [Timed(product, 1, seconds) for seconds in (200e-6, 400e-6, 800e-6)]
    assert usual_share(found, CORE) == pytest.approx(0.5)
    assert "of_roofline = 0.5" in lines(found, CORE, "cpu")


def test_one_core_is_measured_with_the_engines_kernels_and_its_threads_come_back() -> None:
    before = torch.get_num_threads()
    found = on_one_core(products_of(config())[:2], (1, 4))
    assert [one.rows for one in found] == [1, 4, 1, 4]
    assert all(0 < one.seconds < 1 for one in found)
    assert torch.get_num_threads() == before


def test_a_profile_of_a_core_and_of_a_gpu_is_one_that_the_planner_reads(tmp_path: Path) -> None:
    wire = SocketLink(20e-6, 3e9, 8e-6)
    point = Point(SHAPE, 8, 2, 64.0, 2)
    timed = [Timed(Product("p", 1000, 1000), 8, 400e-6)]
    text = profile(CORE, link("loopback"), wire, [Measured("small", point, 0.01, [0.01])], timed)
    text += "\n".join(gpu.profile_lines(measured_gpu(gpu.Peer(5e-6, 1e11)), device("h800"))) + "\n"
    path = tmp_path / "profile.toml"
    path.write_text(text, encoding="utf-8")
    assert device("cpu", path).memory_bytes_s == pytest.approx(1e10)
    found = device("gpu", path)
    assert found.factors.efficiency == pytest.approx(0.5)
    assert found.factors.op_s == pytest.approx(2e-6)
    assert found.factors.overlap_loss == device("h800").factors.overlap_loss
    assert found.flops == pytest.approx({"bf16": 1e15, "fp8": 2e15})
    assert link("gpu-peer", path).latency_s == pytest.approx(5e-6)
    assert link("gpu-peer", path).bytes_s == pytest.approx(1e11)


def measured_gpu(peer: gpu.Peer | None) -> gpu.Gpu:
    product = Product("p", 10_000, 10_000)  # 200 MB: 100 us
    return gpu.Gpu(
        name="GPU",
        memory_bytes=1e11,
        memory_bytes_s=2e12,
        flops={"bf16": 1e15, "fp8": 2e15},
        launch_s=2e-6,
        products=[Timed(product, 1, 200e-6)],
        peer=peer,
    )


def test_the_path_of_a_gpu_runs_on_any_device() -> None:
    found = gpu.measure_on(torch.device("cpu"), HostClock(), "none", 1e9, config(), square=32, copy_bytes=1 << 16)
    assert set(found.flops) == {"bf16"}
    assert len(found.products) == len(products_of(config())) * len(gpu.ROWS)
    assert found.launch_s > 0
    assert found.peer is None
    assert not math.isnan(gpu.device_of(found, device("h800")).factors.efficiency)


def test_replicas_are_experts_that_a_worker_has_and_cost_what_finding_them_costs() -> None:
    shape, wire = SHAPE, link("loopback")
    pools = Pools(attention=1, experts=4, attention_device=CORE, expert_device=CORE, link=wire, replicas=2)
    assert pools.held == 1 / 2
    more = Pools(attention=1, experts=1, attention_device=CORE, expert_device=CORE, link=wire, replicas=2)
    assert more.held == 1.0
    once, twice = (step(Point(shape, 2, 2, 64.0, replicas), CORE, wire).layer.experts for replicas in (1, 2))
    assert twice > once
    assert step(Point(shape, 32, 1, 64.0, 1), CORE, wire) == step(Point(shape, 32, 1, 64.0, 2), CORE, wire)
