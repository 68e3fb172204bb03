"""A worker that leaves under streams hands over its pages: no request is lost, and no bit changes."""

from __future__ import annotations

import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from caracal_proto import attention_pb2, router_pb2
from caracal_proto.router_pb2_grpc import RouterStub
from support.cluster_harness import ClusterUnderTest, running_cluster, until
from support.tiny_checkpoint import PLAIN

from services.membership.record import WorkerRecord

pytestmark = pytest.mark.processes

STREAMS, TOKENS = 8, 1500


@pytest.fixture(params=[False, True], ids=["plain", "tls"])
def cluster(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[ClusterUnderTest]:
    environment = {"CARACAL_PAGE_SIZE": "16", "CARACAL_CLUSTER_KEY": "a key of this test"}
    folder, preset = tmp_path_factory.mktemp("migration"), PLAIN | {"max_position_embeddings": 4096}
    yield from running_cluster(folder, preset, attention=2, routers=2, environment=environment, tls=request.param)


def checksums(target: str, number: int, begun: set[int]) -> list[int]:
    """Of one stream, which is the same each time; notes that it has begun."""
    sampling = attention_pb2.Sampling(max_tokens=TOKENS, temperature=0.8, seed=number + 1, ignore_eos=True)
    request = router_pb2.TextRequest(prompt=f"{number} the cat sat on the mat " * 100, sampling=sampling)
    with grpc.insecure_channel(target) as channel:
        found: list[int] = []
        for event in RouterStub(channel).Generate(request, timeout=120):
            found += [token.logits_checksum for token in event.tokens]
            begun.add(number)
    assert event.finish_reason == "length"
    return found


def counted(record: WorkerRecord, name: str) -> float:
    """The sum of a metric over its labels."""
    with urllib.request.urlopen(f"http://{record.metrics_address}/metrics", timeout=10) as page:
        lines = page.read().decode().splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith((f"{name} ", f"{name}{{")))


def test_a_worker_leaves_under_many_streams_of_two_routers(cluster: ClusterUnderTest) -> None:
    routers = cluster.records("router")
    known = "caracal_gateway_prefix_hints"
    until(lambda: all(counted(one, known) == 2 for one in routers), "a router does not know both workers")
    targets, begun = [record.address for record in routers], set[int]()
    with ThreadPoolExecutor(STREAMS) as pool:
        streams = [pool.submit(checksums, targets[number % 2], number, begun) for number in range(STREAMS)]
        until(lambda: len(begun) == STREAMS or any(one.done() for one in streams), "a stream does not begin")
        assert not any(one.done() and one.result() for one in streams), "the streams are too short"
        cluster.scale("attention", 1)
        until(lambda: "attention-1" not in cluster.local.children, "attention-1 never left", 30)
        found = [stream.result(120) for stream in streams]
        alone = [pool.submit(checksums, targets[number % 2], number, begun) for number in range(STREAMS)]
        assert found == [stream.result(120) for stream in alone]
    (left,) = cluster.records("attention")
    migrations = counted(left, "caracal_kv_migrations_total")
    fallbacks = counted(left, "caracal_kv_migration_fallbacks_total")
    assert migrations + fallbacks >= 2
    assert migrations > 0, "they were all computed again"
    assert counted(left, "caracal_kv_migrated_pages_total") > 0
    assert counted(left, "caracal_unauthenticated_calls_total") == 0
    assert counted(left, "caracal:kv_cache_usage_perc") == 0
