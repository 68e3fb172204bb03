"""An upgrade that changes the numerics class, and its rollback, under streams: none fails, none hangs, and each has the
bits of one class from its first token to its last."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import grpc
import pytest
from caracal_proto import router_pb2
from caracal_proto.router_pb2_grpc import RouterStub
from support.cluster_harness import Stream, Streams, prompt_of, sampling_of
from support.rolled_cluster import Rolled, rolled_cluster
from support.tiny_checkpoint import PLAIN, make_checkpoint

pytestmark = pytest.mark.processes

OLD, NEW = "float32", "bfloat16"
TOKENS = 120


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rolled]:
    folder = tmp_path_factory.mktemp("upgrade")
    model = make_checkpoint(folder / "model", PLAIN | {"max_position_embeddings": 32_768}, seed=3)
    with rolled_cluster(folder, model, KV_PAGES="2048", DRAIN_TIMEOUT_S="10") as running:
        running.start(OLD)
        yield running


def kinds(streams: Streams) -> list[set[tuple[int, ...]]]:
    """What each caller got: the checksums of whole answers, once each."""
    found = []
    for answers in streams.finish():
        assert {stream.finish_reason for stream in answers} == {"length"}
        found.append({tuple(stream.checksums) for stream in answers})
    return found


def alone(cluster: Rolled) -> list[tuple[int, ...]]:
    """One answer of each caller, while nothing changes."""
    streams = Streams(cluster.target, TOKENS)
    streams.wait_for_tokens(1)
    return [kind for (kind,) in map(tuple, kinds(streams))]


def test_an_upgrade_and_its_rollback_lose_nothing(cluster: Rolled) -> None:
    old = alone(cluster)
    streams = Streams(cluster.target, TOKENS)
    streams.wait_for_tokens(200)
    cluster.roll(NEW)
    streams.wait_for_tokens(200)
    during = kinds(streams)
    new = alone(cluster)
    assert all(one != other for one, other in zip(old, new, strict=True)), "the classes give other bits"
    assert during == [{one, other} for one, other in zip(old, new, strict=True)]
    streams = Streams(cluster.target, TOKENS)
    streams.wait_for_tokens(200)
    cluster.roll(OLD)
    streams.wait_for_tokens(200)
    assert kinds(streams) == during
    assert alone(cluster) == old


def test_what_cannot_go_on_ends_at_once_with_an_error_worth_retrying(cluster: Rolled) -> None:
    """A long answer outlasts the drain of the last old attention worker."""
    found, ended = Stream(), list[grpc.RpcError]()
    request = router_pb2.TextRequest(prompt=prompt_of(2), sampling=sampling_of(2, 30_000))
    with grpc.insecure_channel(cluster.target) as channel:
        events = RouterStub(channel).Generate(request, timeout=180)
        found.ids += [token.id for token in next(iter(events)).tokens]
        rolling = threading.Thread(target=cluster.roll, args=(NEW,))
        rolling.start()
        try:
            for event in events:
                found.ids += [token.id for token in event.tokens]
                found.times.append(time.monotonic())
        except grpc.RpcError as error:
            ended.append(error)
        ended_at = time.monotonic()
        rolling.join()
    assert ended, f"it ended by itself after {len(found.ids)} tokens"
    assert ended[0].code() is grpc.StatusCode.UNAVAILABLE
    assert "an upgrade has replaced the workers" in (ended[0].details() or "")
    assert ended_at - found.times[-1] < 10, "at once, and not after the time without progress"
