"""The Load rpc says of each expert what was computed, on every way that a call may take.

Legend: L layers, F FFN experts of a layer, A assignments of a call.
"""

from __future__ import annotations

import grpc
import numpy as np
import pytest
import torch
from caracal_kernels import is_compiled
from caracal_proto import expert_pb2, expert_pb2_grpc
from caracal_proto.loads import WorkerLoad, unpack_load
from numpy.typing import NDArray
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

from services.checkpoint.reader import Checkpoint
from services.router.dispatch.errors import ExpertsUnavailable

WITHOUT_PYTHON = "native, without Python"
DTYPE, ROUNDS = torch.bfloat16, 12


def asked_of(worker: Worker) -> NDArray[np.int64]:
    """The assignments of all calls that the worker has received, [L, F]."""
    asked_LF = np.zeros((worker.experts.num_layers, worker.experts.num_ffn), np.int64)
    for call in worker.service.calls:
        np.add.at(asked_LF[call.layer], np.frombuffer(call.expert, "<i4"), 1)
    return asked_LF


def load_of(worker: Worker) -> WorkerLoad:
    with grpc.insecure_channel(worker.endpoint.address) as channel:
        reply = expert_pb2_grpc.ExpertStub(channel).Load(expert_pb2.LoadRequest(), timeout=10)
    return unpack_load(reply, worker.experts.num_layers, worker.experts.num_ffn)


@pytest.mark.parametrize(
    "way",
    [
        *LINKS,
        pytest.param(
            WITHOUT_PYTHON, marks=pytest.mark.skipif(not is_compiled(), reason="there are no compiled kernels")
        ),
    ],
)
def test_each_expert_has_the_share_that_was_computed(checkpoint: Checkpoint, way: str) -> None:
    gate = gates(checkpoint)
    link = "native" if way == WITHOUT_PYTHON else way
    with workers(checkpoint, DTYPE, 2) as two:
        for worker in two:
            load_everything(worker.experts)
            if way == WITHOUT_PYTHON:
                worker.service.native = worker.service.new_native(worker.state, worker.batcher, direct=True)
        connect = connecting(link, checkpoint, DTYPE)
        with open_dispatcher(checkpoint, connect, expert_wait_s=0.1) as dispatcher:
            dispatcher.apply(place(1, checkpoint, [w.endpoint for w in two], lambda layer, expert: [expert % 2]))
            for number in range(ROUNDS):
                batch, layer = random_batch(number, checkpoint.config.hidden_size, DTYPE), number % 2
                run(dispatcher, layer, gate[layer], batch)
            asked = [asked_of(worker) for worker in two]
            assert [worker.batcher.counters.launches > 0 for worker in two] == [way != WITHOUT_PYTHON] * 2
            for worker, asked_LF in zip(two, asked, strict=True):
                load = load_of(worker)
                assert load.loaded_LF.all()
                np.testing.assert_allclose(
                    load.rate_LF / load.assignments_per_s, asked_LF / asked_LF.sum(), rtol=1e-6, atol=0
                )
                assert (worker.batcher.assigned_LF == asked_LF).all()
                assert worker.batcher.counters.assignments == asked_LF.sum() > 0
                assert load.busy > 0 < load.window_s
            two[1].experts.drop(1, 3)
            with pytest.raises(ExpertsUnavailable, match="experts 3 of layer 1 are not loaded here"):
                run(dispatcher, 1, gate[1], random_batch(3, checkpoint.config.hidden_size, DTYPE, tokens=40))
            load = load_of(two[1])
            assert not load.loaded_LF[1, 3]
            assert load.rate_LF[1, 3] == 0 < asked[1][1, 3]
            assert (two[1].batcher.assigned_LF == asked[1]).all(), "calls that failed are not counted"
