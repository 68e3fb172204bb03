"""Rows sent as fp8: quantisation works row by row, and attention and expert workers need the same dispatch dtype.

Legend: R rows of a call, D hidden, S scales of a row, N bytes of a payload, T tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from caracal_kernels import quantize
from support.expert_workers import (
    LINKS,
    Worker,
    connecting,
    gates,
    load_everything,
    open_dispatcher,
    place,
    random_batch,
    run,
    workers,
)
from support.reference_dispatcher import ReferenceDispatcher
from support.tiny_checkpoint import PRESETS, make_checkpoint
from torch import Tensor

from services.checkpoint.device import CPU
from services.checkpoint.numerics import numerics_of
from services.checkpoint.reader import Checkpoint
from services.router.dispatch.errors import ExpertsUnavailable
from services.transport.payload import FP8, dequantize, dispatch_dtype_of, pack, payload_bytes, unpack

DTYPE = torch.bfloat16


class Fp8Reference(ReferenceDispatcher):
    """Experts get each row quantised to fp8 and back; the gate and the zero experts get it as it is."""

    def expert_input(self, h_TD: Tensor) -> Tensor:
        return dequantize(*quantize(h_TD), h_TD.dtype)


@pytest.fixture(scope="module", params=["plain", "uneven"])
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    path: Path = make_checkpoint(tmp_path_factory.mktemp(request.param), PRESETS[request.param], dtype=DTYPE)
    return Checkpoint.open(path)


@pytest.fixture(scope="module")
def three(checkpoint: Checkpoint) -> Iterator[list[Worker]]:
    with workers(checkpoint, DTYPE, 3, dispatch_dtype=FP8) as running:
        for worker in running:
            load_everything(worker.experts)
        yield running


@pytest.mark.parametrize("link", LINKS)
@pytest.mark.parametrize("replicas", [1, 2])
def test_bits_do_not_depend_on_link_or_placement(
    checkpoint: Checkpoint, three: list[Worker], link: str, replicas: int
) -> None:
    gate, plain, wide = gates(checkpoint), Fp8Reference(checkpoint, DTYPE), ReferenceDispatcher(checkpoint, DTYPE)
    ends, hidden, other = [worker.endpoint for worker in three], checkpoint.config.hidden_size, 0
    with open_dispatcher(
        checkpoint, connecting(link, checkpoint, DTYPE, dispatch_dtype=FP8), dispatch_dtype=FP8
    ) as dispatcher:
        dispatcher.apply(place(1, checkpoint, ends, lambda layer, expert: [(expert + i) % 3 for i in range(replicas)]))
        for number in range(30):
            batch, layer = random_batch(number, hidden, DTYPE), number % 2
            out_TD = run(dispatcher, layer, gate[layer], batch)
            assert torch.equal(out_TD, run(plain, layer, gate[layer], batch)), number
            other += not torch.equal(out_TD, run(wide, layer, gate[layer], batch))
        total = dispatcher.stats.total()
    assert other > 20, "fp8 shows in the bits: it must be a class of its own"
    assert total.bytes_sent == payload_bytes(total.rows_sent, hidden, FP8)
    if link == "nccl":
        assert all(call.p2p_group for worker in three for call in worker.service.calls[-3:])


def test_rows_of_another_dispatch_dtype_are_rejected(checkpoint: Checkpoint, three: list[Worker]) -> None:
    gate, batch = gates(checkpoint), random_batch(0, checkpoint.config.hidden_size, DTYPE, tokens=8)
    for link in LINKS:
        with open_dispatcher(checkpoint, connecting(link, checkpoint, DTYPE), expert_wait_s=0.4) as dispatcher:
            dispatcher.apply(place(1, checkpoint, [three[0].endpoint], lambda layer, expert: [0]))
            with pytest.raises(ExpertsUnavailable, match=r"this worker takes rows in torch.float8_e4m3fn"):
                run(dispatcher, 0, gate[0], batch)


def test_the_numerics_class_depends_on_the_dispatch_dtype(checkpoint: Checkpoint, tmp_path: Path) -> None:
    assert dispatch_dtype_of("", DTYPE) == DTYPE
    assert dispatch_dtype_of("fp8", DTYPE) == FP8
    default, wide, fp8 = (numerics_of(checkpoint, DTYPE, CPU, dtype).name for dtype in (None, DTYPE, FP8))
    assert default == wide
    other = Checkpoint.open(make_checkpoint(tmp_path, seed=1, dtype=DTYPE))
    assert fp8 not in (wide, numerics_of(other, DTYPE, CPU, FP8).name)
    assert fp8.startswith("caracal-")


@pytest.mark.parametrize("hidden", [1, 64, 128, 130, 6144])
def test_each_block_of_a_row_has_its_own_scale_and_rows_are_independent(hidden: int) -> None:
    x_RD = random_batch(hidden, hidden, torch.float32, tokens=5).h_TD
    x_RD *= torch.logspace(-6, 6, 5)[:, None]
    x_RD[1] = 0
    q_RD, scale_RS = quantize(x_RD)
    assert (q_RD.dtype, q_RD.shape, scale_RS.shape) == (FP8, x_RD.shape, (5, -(-hidden // 128)))
    back_RD = dequantize(q_RD, scale_RS, torch.float32)
    largest_RD = scale_RS.repeat_interleave(128, 1)[:, :hidden] * 448
    # e4m3 has 3 bits behind the leading one, and steps of 2^-9 below 2^-6.
    assert bool(((back_RD - x_RD).abs() <= torch.maximum(x_RD.abs() / 16, largest_RD / 448 / 1024) * 1.001).all())
    assert not back_RD[1].any()
    for row in range(5):
        q_1D, scale_1S = quantize(x_RD[row : row + 1])
        assert torch.equal(q_1D.view(torch.uint8), q_RD[row : row + 1].view(torch.uint8))
        assert torch.equal(scale_1S, scale_RS[row : row + 1])


@pytest.mark.parametrize("dispatch_dtype", [torch.float32, torch.bfloat16, FP8])
@pytest.mark.parametrize(("rows", "hidden"), [(1, 1), (3, 5), (7, 130), (64, 256)])
def test_a_payload_has_the_announced_length_and_round_trips(
    dispatch_dtype: torch.dtype, rows: int, hidden: int
) -> None:
    dtype = torch.float32 if dispatch_dtype == torch.float32 else DTYPE
    x_RD = random_batch(rows, hidden, dtype, tokens=rows).h_TD
    payload_N = pack(x_RD, dispatch_dtype)
    assert payload_N.shape == (payload_bytes(rows, hidden, dispatch_dtype),)
    right_RD = dequantize(*quantize(x_RD), dtype) if dispatch_dtype == FP8 else x_RD
    assert torch.equal(unpack(payload_N, rows, hidden, dispatch_dtype, dtype), right_RD)


def test_rows_that_are_not_finite_stay_so() -> None:
    x_RD = torch.ones(2, 256, dtype=DTYPE)
    x_RD[0, 3], x_RD[1, 200] = torch.inf, torch.nan
    back_RD = dequantize(*quantize(x_RD), DTYPE)
    assert not torch.isfinite(back_RD[0, :128]).all()
    assert not torch.isfinite(back_RD[1, 128:]).all()
    assert torch.isfinite(back_RD[0, 128:]).all()
