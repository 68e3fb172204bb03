"""The parts of a step: bytes, operations and what a device makes of them."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from services.checkpoint.sparse import StreamingAttention
from services.cli.plan import FLASH_CHAT as FLASH_CONFIG
from services.cli.plan import Sizes
from services.cli.planning.models import shape_of
from services.planner import attention, experts
from services.planner.device import Device, Factors, Link, side_by_side
from services.planner.exchange import exchange, workers_reached
from services.planner.families import DEEPSEEK_V3, FAMILIES, FLASH_CHAT, OTHERS
from services.planner.layer import Layer, Pools, colocated, separate
from services.planner.serving import Load, Serving
from services.planner.shape import mla
from services.planner.step import colocated_step
from services.planner.traffic import percentile_s, waiting_s
from services.planner.work import Work

GPU = Device(
    name="gpu", memory_bytes=80e9, memory_bytes_s=3e12, flops={"bf16": 1e15, "fp8": 2e15}, attention_flops=6e14
)
WIRE = Link(name="wire", bytes_s=40e9, latency_s=10e-6)
LOAD = Load(64, 4000)


def test_sizes_are_those_of_the_published_models() -> None:
    assert FLASH_CHAT.expert_params == 37_748_736
    assert FLASH_CHAT.ffn_choices == 8
    assert FLASH_CHAT.cached_token_bytes("bf16", drafts=False) == 64_512
    assert FLASH_CHAT.cached_token_bytes("bf16", drafts=True) == 64_512 + 2 * 576
    billions = {
        name: round((s.all_expert_params + s.attention_side_params) / 1e9) for name, s in {**FAMILIES, **OTHERS}.items()
    }
    assert billions["flash-chat"] == 561
    assert billions["deepseek-v3"] == 671
    assert billions["qwen3-235b"] == 235
    assert 315 <= billions["step-3"] <= 322
    assert 312 <= billions["scaled-moe"] <= 320


def test_memory_and_products_run_at_once_and_kernels_start_one_by_one() -> None:
    assert Work(read_bytes=3e9, flops=1e12).seconds(GPU) == pytest.approx(1e-3)
    assert Work(read_bytes=3e9, flops=4e12).seconds(GPU) == pytest.approx(4e-3)
    slow = replace(GPU, factors=Factors(efficiency=0.5, op_s=1e-5))
    assert Work(read_bytes=3e9, ops=10).seconds(slow) == pytest.approx(2e-3 + 1e-4)
    assert side_by_side(3.0, 2.0, 0.5) == 4.0


def test_a_row_goes_out_once_per_choice_or_once_per_worker() -> None:
    copies = exchange(FLASH_CHAT, 100, 128, Serving())
    assert copies.out_bytes == 100 * 8 * 6144
    assert copies.back_bytes == 100 * 8 * 6144 * 2
    once = exchange(FLASH_CHAT, 100, 4, Serving(deduplicated=True))
    assert once.out_bytes == pytest.approx(100 * 4 * (1 - 0.75**8) * 6144)
    assert once.back_bytes == copies.back_bytes
    assert exchange(FLASH_CHAT, 100, 128, Serving(zeros_stay=False)).out_bytes == 1.5 * copies.out_bytes
    assert workers_reached(8, 8) == pytest.approx(5.25, abs=0.01)  # as the reference of the family counts it
    assert exchange(FLASH_CHAT, 1, 64, Serving()).messages == pytest.approx(workers_reached(8, 64))


def test_only_experts_that_get_rows_are_read() -> None:
    assert experts.touched(512, 1) == pytest.approx(1)
    assert experts.touched(512, 512 * 50) == pytest.approx(512)
    few, many = (experts.layer_s(FLASH_CHAT, rows, 4, 0, "fp8", GPU) for rows in (1, 4000))
    assert few == pytest.approx(37_748_736 / 3e12, rel=1e-3)
    assert many == pytest.approx(2 * 4000 * 37_748_736 / 2e15)


def test_the_shortcut_hides_what_the_dense_path_takes() -> None:
    """Without overlap all of it is exposed; with it no more than what is longer than the dense path."""
    plain = colocated(FLASH_CHAT, LOAD, Serving(), GPU, WIRE, 128)
    hidden = colocated(FLASH_CHAT, LOAD, Serving(overlap="sbo"), GPU, WIRE, 128)
    assert plain.exposed == pytest.approx(plain.dispatch + plain.combine)
    assert 0 <= hidden.exposed < plain.exposed
    assert hidden.total >= hidden.attention + hidden.dispatch + hidden.experts


def test_more_expert_devices_never_make_a_layer_longer_on_a_free_link() -> None:
    free = replace(WIRE, bytes_s=1e15, latency_s=0.0)
    totals = []
    for count in (8, 16, 32, 64):
        pools = Pools(attention=64, experts=count, attention_device=GPU, expert_device=GPU, link=free)
        totals.append(separate(FLASH_CHAT, LOAD, Serving(deduplicated=True), pools).total)
    assert totals == sorted(totals, reverse=True)


def test_a_dead_link_leaves_nothing_hidden() -> None:
    pools = Pools(attention=32, experts=8, attention_device=GPU, expert_device=GPU, link=replace(WIRE, bytes_s=1e8))
    layer = separate(FLASH_CHAT, LOAD, Serving(), pools)
    assert layer.exposed > 10 * layer.busy


def test_two_batches_that_overlap_are_never_slower_than_none_without_loss() -> None:
    tbo, none = (colocated(DEEPSEEK_V3, LOAD, Serving(overlap=way), GPU, WIRE, 128).total for way in ("tbo", "none"))
    assert tbo < none


def test_right_drafts_give_more_tokens_per_step() -> None:
    assert Serving(drafts=1, acceptance=0.8).tokens_per_step == pytest.approx(1.8)
    assert Serving(drafts=3, acceptance=1.0).tokens_per_step == 4
    plain = colocated_step(FLASH_CHAT, LOAD, Serving(overlap="sbo"), GPU, WIRE, 128)
    useless = colocated_step(FLASH_CHAT, LOAD, Serving(overlap="sbo", drafts=1, acceptance=0.0), GPU, WIRE, 128)
    assert useless.tpot_s > plain.tpot_s


def test_uneven_experts_cost_more_on_more_devices() -> None:
    serving = Serving(unevenness=0.5)
    assert serving.skew(1, 512) == 1
    assert serving.skew(128, 4) > serving.skew(8, 64) > 1


def test_waits_grow_without_bound_as_servers_fill() -> None:
    waits = [waiting_s(share, 1.0, 4, 1.0) for share in (0.1, 0.5, 0.9, 0.99)]
    assert waits == sorted(waits)
    assert math.isinf(waiting_s(1.0, 1.0, 4, 1.0))
    assert waiting_s(0.5, 1.0, 1, 1.0) == pytest.approx(1.0)  # M/M/1: rho / (1 - rho) services
    assert percentile_s(1.0, 0.5) == pytest.approx(2 * math.log(50))


@pytest.mark.parametrize(
    ("peaks", "dtype", "found"),
    [
        ({"bf16": 4, "fp8": 8}, "fp8", 8),
        ({"bf16": 4, "fp8": 8}, "nvfp4", 8),
        ({"bf16": 4, "nvfp4": 16}, "fp8", 4),
        ({"bf16": 4, "fp8": 8}, "fp32", 2),
        ({"fp8": 8}, "bf16", 4),
        ({"fp32": 1}, "fp8", 1),
    ],
)
def test_a_dtype_that_a_device_lacks_runs_in_the_next_wider_one(
    peaks: dict[str, float], dtype: str, found: float
) -> None:
    assert replace(GPU, flops=peaks).gemm_flops(dtype) == found


def test_each_replica_is_read_and_gets_its_share_of_the_rows() -> None:
    def layer(replicas: int, sequences: float, unevenness: float) -> Layer:
        pools = Pools(attention=64, experts=64, attention_device=GPU, expert_device=GPU, link=WIRE, replicas=replicas)
        serving = Serving(deduplicated=True, unevenness=unevenness)
        return separate(FLASH_CHAT, Load(sequences, 4000), serving, pools)

    assert layer(2, 64, 0).experts > 1.5 * layer(1, 64, 0).experts  # twice the weights, bound by memory
    assert layer(2, 4096, 2).experts < layer(1, 4096, 2).experts  # more even, bound by products
    assert Pools(attention=1, experts=1, attention_device=GPU, expert_device=GPU, link=WIRE, replicas=2).held == 1


def test_ranks_compute_whole_what_each_of_them_has_whole() -> None:
    a = FLASH_CHAT.attention
    whole, four = attention.qkv(a, 1, "bf16", 1).read_bytes, attention.qkv(a, 1, "bf16", 4).read_bytes
    assert a.whole == 6144 * (1536 + 576)
    assert four == pytest.approx(2 * a.whole + (whole - 2 * a.whole) / 4)


def test_sublayers_that_read_a_window_have_fewer_keys() -> None:
    half = mla(6144, 64, windowed=0.5, window=1024)
    assert half.keys(1000) == 1000
    assert half.keys(9216) == (9216 + 1024) / 2
    streaming = StreamingAttention(sink_blocks=1, recent_blocks=7, sparse=(True, False) * 28)
    shape = shape_of(replace(FLASH_CONFIG, streaming=streaming), Sizes.of("zigzag", FLASH_CONFIG))
    assert (shape.attention.windowed, shape.attention.window) == (0.5, 1024)
    dense = colocated(FLASH_CHAT, Load(64, 64000), Serving(), GPU, WIRE, 128)
    assert colocated(shape, Load(64, 64000), Serving(), GPU, WIRE, 128).attention < 0.7 * dense.attention
