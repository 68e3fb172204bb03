"""One MoE layer gives the same bits on any placement: 1 to 3 workers, replicas, any link, any batch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from caracal_kernels import GateWeights
from caracal_proto import placement_pb2
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

from services.checkpoint.reader import Checkpoint
from services.expert_worker.experts import Experts
from services.local.in_process_link import LocalLink

CASES = [("plain", torch.float32), ("uneven", torch.bfloat16), ("wide_top_k", torch.bfloat16)]
STEPS = 15


@pytest.fixture(scope="module", params=CASES, ids=[f"{name}-{dtype}" for name, dtype in CASES])
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Checkpoint, torch.dtype]:
    name, dtype = request.param
    path: Path = make_checkpoint(tmp_path_factory.mktemp(name), PRESETS[name], dtype=dtype)
    return Checkpoint.open(path), dtype


@pytest.fixture(scope="module")
def three(case: tuple[Checkpoint, torch.dtype]) -> Iterator[list[Worker]]:
    with workers(*case, 3) as running:
        for worker in running:
            load_everything(worker.experts)
        yield running


PLACEMENTS = {
    "one worker": lambda layer, expert: [0],
    "two workers": lambda layer, expert: [expert % 2],
    "three workers": lambda layer, expert: [(expert + layer) % 3],
    "two replicas": lambda layer, expert: [expert % 3, (expert + 1) % 3],
    "every expert on every worker": lambda layer, expert: [0, 1, 2],
}


@pytest.mark.parametrize("link", LINKS)
@pytest.mark.parametrize("placement", PLACEMENTS, ids=str)
def test_bits_do_not_depend_on_the_placement(
    case: tuple[Checkpoint, torch.dtype], three: list[Worker], placement: str, link: str
) -> None:
    checkpoint, dtype = case
    table = place(1, checkpoint, [worker.endpoint for worker in three], PLACEMENTS[placement])
    before = sum(worker.service.over_p2p for worker in three)
    native_before = sum(worker.service.native_calls for worker in three)
    with open_dispatcher(checkpoint, connecting(link, checkpoint, dtype)) as dispatcher:
        dispatcher.apply(table)
        compare(checkpoint, dtype, dispatcher, gates(checkpoint))
        sent = dispatcher.stats.total().messages_sent
    assert sum(worker.service.over_p2p for worker in three) - before == (sent if link == "nccl" else 0)
    natively = sum(worker.service.native_calls for worker in three) - native_before
    assert natively == (sent if link == "native" else 0)


def test_local_links_give_the_same_bits(case: tuple[Checkpoint, torch.dtype]) -> None:
    checkpoint, dtype = case
    experts = load_everything(Experts(checkpoint, dtype))
    with open_dispatcher(checkpoint, lambda endpoint: LocalLink(experts)) as local:
        local.apply(place(1, checkpoint, [endpoint(0), endpoint(1)], PLACEMENTS["two workers"]))
        compare(checkpoint, dtype, local, gates(checkpoint))


def endpoint(index: int) -> placement_pb2.Endpoint:
    return placement_pb2.Endpoint(worker_id=f"local-{index}", address="local", boot_id="b")


def compare(checkpoint: Checkpoint, dtype: torch.dtype, dispatcher: object, gate: list[GateWeights]) -> None:
    plain = ReferenceDispatcher(checkpoint, dtype)
    for number in range(STEPS):
        batch = random_batch(number, checkpoint.config.hidden_size, dtype)
        layer = number % checkpoint.config.num_layers
        assert torch.equal(run(dispatcher, layer, gate[layer], batch), run(plain, layer, gate[layer], batch)), number
