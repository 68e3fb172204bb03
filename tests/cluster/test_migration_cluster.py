"""A worker that leaves under streams hands over its pages: no request is lost, no bit changes, and little is computed."""

from __future__ import annotations

import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from caracal_proto import attention_pb2, router_pb2
from caracal_proto.router_pb2_grpc import RouterStub
from support.cluster_harness import ClusterUnderTest, running_cluster, until

from services.membership.record import WorkerRecord

pytestmark = pytest.mark.processes

STREAMS, TOKENS = 12, 250


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterUnderTest]:
    environment = {"CARACAL_PAGE_SIZE": "16", "CARACAL_CLUSTER_KEY": "a key of this test"}
    yield from running_cluster(tmp_path_factory.mktemp("migration"), attention=2, routers=2, environment=environment)


def checksums(target: str, number: int) -> list[int]:
    """Of one stream, which is the same each time."""
    sampling = attention_pb2.Sampling(max_tokens=TOKENS, temperature=0.8, seed=number + 1, ignore_eos=True)
    request = router_pb2.TextRequest(prompt=f"{number} the cat sat on the mat " * 12, sampling=sampling)
    with grpc.insecure_channel(target) as channel:
        events = list(RouterStub(channel).Generate(request, timeout=120))
    assert events[-1].finish_reason == "length"
    return [token.logits_checksum for event in events for token in event.tokens]


def counted(record: WorkerRecord, name: str) -> float:
    with urllib.request.urlopen(f"http://{record.metrics_address}/metrics", timeout=10) as page:
        lines = page.read().decode().splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith((f"{name} ", f"{name}{{")))


def running(cluster: ClusterUnderTest) -> list[float]:
    return [record.stats["running"] for record in cluster.records("attention")]


def test_a_worker_leaves_under_many_streams_of_two_routers(cluster: ClusterUnderTest) -> None:
    targets = [record.address for record in cluster.records("router")]
    undisturbed = [checksums(targets[0], number) for number in range(STREAMS)]
    with ThreadPoolExecutor(STREAMS) as pool:
        streams = [pool.submit(checksums, targets[number % 2], number) for number in range(STREAMS)]
        until(lambda: all(count >= 3 for count in running(cluster)), "a worker gets no streams")
        cluster.scale("attention", 1)
        until(lambda: "attention-1" not in cluster.local.children, "attention-1 never left", 30)
        assert [stream.result(120) for stream in streams] == undisturbed
    (left,) = cluster.records("attention")
    migrations = counted(left, "caracal_kv_migrations_total")
    fallbacks = counted(left, "caracal_kv_migration_fallbacks_total")
    assert migrations + fallbacks >= 3
    # Streams whose pages both workers have, or which are computed sooner, bring none.
    assert counted(left, "caracal_kv_migrated_pages_total") > 0 or fallbacks > 0
    assert counted(left, "caracal_unauthenticated_calls_total") == 0
    assert counted(left, "caracal:kv_cache_usage_perc") == 0
