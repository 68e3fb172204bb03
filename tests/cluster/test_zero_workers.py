"""A cluster without expert or attention workers: what has begun and what comes waits, and no bit changes."""

from __future__ import annotations

from collections.abc import Iterator

import grpc
import httpx2
import pytest
from caracal_proto import router_pb2
from caracal_proto.router_pb2_grpc import RouterStub
from support.cluster_harness import CALLERS, ClusterUnderTest, answer_of, prompt_of, running_cluster, sampling_of, until

pytestmark = pytest.mark.processes

SOME = 10 * CALLERS  # tokens


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterUnderTest]:
    environment = {"CARACAL_COLD_START_S": "60"}
    yield from running_cluster(tmp_path_factory.mktemp("zero"), link="grpc", environment=environment)


def to_zero(cluster: ClusterUnderTest, role: str) -> None:
    """As `caracal scale ROLE=0`."""
    cluster.query(lambda: cluster.membership.set_desired(role, 0))
    until(lambda: f"{role}-0" not in cluster.local.children, f"{role}-0 never left")
    assert cluster.do(cluster.membership.desired())[role] == 0


def ready(cluster: ClusterUnderTest) -> dict[str, str]:
    answer = httpx2.get(cluster.local.urls[0] + "/ready")
    assert answer.status_code == 200
    found: dict[str, str] = answer.json()
    return found


@pytest.mark.parametrize("role", ["expert", "attention"])
def test_streams_wait_for_workers_and_go_on(cluster: ClusterUnderTest, role: str) -> None:
    undisturbed = [caller[0] for caller in cluster.streams().finish()]
    streams = cluster.streams()
    streams.wait_for_tokens(SOME)
    to_zero(cluster, role)
    assert cluster.local.counts[role] == 0, "and nobody starts one again"
    cluster.scale(role, 1)
    streams.wait_for_tokens_of_each(5)
    for caller, expected in zip(streams.finish(), undisturbed, strict=True):
        for stream in caller:
            assert stream.finish_reason == "length"
            assert (stream.ids, stream.checksums) == (expected.ids, expected.checksums)


def test_a_request_that_comes_to_no_worker_starts_with_the_first_one(cluster: ClusterUnderTest) -> None:
    expected = answer_of(cluster)
    for role in ("expert", "attention"):
        to_zero(cluster, role)
    until(lambda: ready(cluster)["status"] == "cold", "nobody says that requests wait")
    with grpc.insecure_channel(cluster.grpc_target) as channel:
        request = router_pb2.TextRequest(prompt=prompt_of(2), sampling=sampling_of(3, 24))
        events = RouterStub(channel).Generate(request, timeout=60)
        for role in ("attention", "expert"):
            cluster.query(lambda role=role: cluster.membership.set_desired(role, 1))  # type: ignore[misc]
        found = [(token.id, token.logits_checksum) for event in events for token in event.tokens]
    assert found == expected
