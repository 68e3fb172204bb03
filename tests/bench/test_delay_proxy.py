"""The proxy of the overlap benchmark: replies come later and are the same, over gRPC and over native sessions."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest
import torch
from caracal_proto import expert_pb2, expert_pb2_grpc, placement_pb2
from support.expert_workers import connecting, gates, open_dispatcher, place, random_batch, run, workers
from support.tiny_checkpoint import make_checkpoint

from bench.delay_proxy import serve
from services.checkpoint.reader import Checkpoint
from services.router.dispatch.native_link import NativeStats

DELAY_S = 0.05


def free_address() -> str:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return f"127.0.0.1:{probe.getsockname()[1]}"


def best_s(call: Callable[[], object], times: int = 5) -> float:
    found = []
    for _ in range(times):
        began = time.perf_counter()
        call()
        found.append(time.perf_counter() - began)
    return min(found)


@pytest.mark.parametrize("link", ["grpc", pytest.param("native", marks=pytest.mark.compiled)])
def test_replies_come_later_and_are_the_same(link: str, tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(make_checkpoint(tmp_path / "model"))
    gate, batch = gates(checkpoint)[0], random_batch(1, checkpoint.config.hidden_size, torch.float32)
    listen = free_address()
    with workers(checkpoint, torch.float32, 1) as (worker,):
        worker.apply(place(1, checkpoint, [worker.endpoint], lambda layer, expert: [0]))
        proxy = serve(listen, worker.endpoint.address, DELAY_S)
        behind = placement_pb2.Endpoint(worker_id="w0", boot_id="boot-w0", address=listen)
        rows, seconds = [], []
        for endpoint in (worker.endpoint, behind):
            stats = NativeStats()
            connect = connecting(link, checkpoint, torch.float32, native_stats=stats)
            with open_dispatcher(checkpoint, connect) as dispatcher:
                dispatcher.apply(place(1, checkpoint, [endpoint], lambda layer, expert: [0]))
                rows.append(run(dispatcher, 0, gate, batch))
                seconds.append(best_s(lambda: run(dispatcher, 0, gate, batch)))
            assert stats.opened == (link == "native")
            assert stats.over_grpc == 0
        proxy.stop(0).wait()
    assert torch.equal(*rows)
    assert seconds[0] < DELAY_S <= seconds[1] < 3 * DELAY_S


def test_an_error_of_the_worker_is_passed_on(tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(make_checkpoint(tmp_path / "model"))
    listen = free_address()
    with workers(checkpoint, torch.float32, 1) as (worker,):
        proxy = serve(listen, worker.endpoint.address, 0.0)
        with grpc.insecure_channel(listen) as channel:
            stub = expert_pb2_grpc.ExpertStub(channel)
            assert stub.Describe(expert_pb2.ExpertDescribeRequest()).worker_id == "w0"
            expert = placement_pb2.LayerExperts(layer=999, experts=bytes(2))
            unknown = expert_pb2.PrepareRequest(epoch=1, experts=[expert])
            with pytest.raises(grpc.RpcError) as direct, grpc.insecure_channel(worker.endpoint.address) as straight:
                expert_pb2_grpc.ExpertStub(straight).Prepare(unknown)
            with pytest.raises(grpc.RpcError) as passed_on:
                stub.Prepare(unknown)
            assert passed_on.value.code() == direct.value.code()
            assert passed_on.value.details() == direct.value.details()
        proxy.stop(0).wait()
