"""Routers send prompts to the attention worker that has them cached; answers have the same bits wherever they go."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from random import Random
from typing import Any

import grpc
import pytest
from caracal_proto import attention_pb2, router_pb2
from caracal_proto.router_pb2_grpc import RouterStub
from support.cluster_harness import ClusterUnderTest, running_cluster, until

from services.prefixes.page_hint import PageHint

pytestmark = pytest.mark.processes

PAGE, ANSWER = 16, 60


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterUnderTest]:
    environment = {"CARACAL_PAGE_SIZE": str(PAGE), "CARACAL_CLUSTER_KEY": "a key of this test"}
    yield from running_cluster(tmp_path_factory.mktemp("prefix"), attention=2, routers=2, environment=environment)


def post(url: str, **body: Any) -> dict[str, Any]:
    request = urllib.request.Request(
        f"{url}/v1/completions", json.dumps(body).encode(), {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        found: dict[str, Any] = json.load(answer)
        return found


def turn(url: str, ids: list[int], salt: str = "") -> tuple[list[int], int]:
    """The ids of an answer, and how many tokens of the prompt were cached."""
    more = {"cache_salt": salt} if salt else {}
    answer = post(url, prompt=ids, max_tokens=ANSWER, temperature=0, ignore_eos=True, return_token_ids=True, **more)
    return answer["choices"][0]["token_ids"], answer["usage"]["prompt_tokens_details"]["cached_tokens"]


def hints(cluster: ClusterUnderTest) -> dict[str, PageHint]:
    return cluster.do(cluster.membership.pages.read(["attention-0", "attention-1"]))


def test_every_turn_of_a_dialogue_goes_where_it_is_cached(cluster: ClusterUnderTest) -> None:
    until(lambda: len(hints(cluster)) == 2, "a worker says nothing of its pages")
    url, rng = cluster.local.urls[0], Random(1)
    until(lambda: hints_known(cluster.local.admin_url), "the router does not know of the hints")
    dialogues = [[rng.randrange(3, 300) for _ in range(50)] for _ in range(6)]

    def talk(ids: list[int]) -> list[tuple[int, int]]:
        found = []
        for _ in range(3):
            answer, cached = turn(url, ids)
            found.append((len(ids), cached))
            ids += [*answer, *(rng.randrange(3, 300) for _ in range(7))]
        return found

    with ThreadPoolExecutor(6) as pool:
        turns = list(pool.map(talk, dialogues))
    for first, second, third in turns:
        assert first[1] == 0
        # The answer's last token is not computed in its own turn.
        assert second[1] == (first[0] + ANSWER - 1) // PAGE * PAGE
        assert third[1] == (second[0] + ANSWER - 1) // PAGE * PAGE
    until(lambda: all(any(hint.pages.bits) for hint in hints(cluster).values()), "all went to one worker")


def hints_known(url: str) -> bool:
    with urllib.request.urlopen(f"{url}/metrics", timeout=10) as page:
        lines = page.read().decode().splitlines()
    return any(line.startswith("caracal_gateway_prefix_hints{") and line.endswith(" 2.0") for line in lines)


def checksums(target: str, prompt: str, salt: str) -> tuple[list[int], int]:
    with grpc.insecure_channel(target) as channel:
        sampling = attention_pb2.Sampling(max_tokens=30, temperature=0.8, seed=5, ignore_eos=True)
        request = router_pb2.TextRequest(prompt=prompt, sampling=sampling, cache_salt=salt)
        events = list(RouterStub(channel).Generate(request, timeout=60))
    return [token.logits_checksum for event in events for token in event.tokens], events[-1].cached_tokens


def test_bits_with_no_cache_with_a_warm_one_and_through_another_router(cluster: ClusterUnderTest) -> None:
    targets = [record.address for record in cluster.records("router")]
    prompt = "the cat sat on the mat and the dog ran over the hill " * 3
    cold, cached = checksums(targets[0], prompt, "1")
    assert cached == 0
    assert len(cold) == 30
    until(lambda: checksums(targets[1], prompt, "1")[1] > 0, "the other router does not find it")
    for salt in ("1", "1", "2", "2"):
        assert checksums(targets[1], prompt, salt)[0] == cold


def both_serve(cluster: ClusterUnderTest, dead: set[str]) -> bool:
    """Whether two workers serve that are other runs than the dead ones, whose leases may still be there."""
    return sum(record.serving and record.boot_id not in dead for record in cluster.records("attention")) == 2


def test_a_killed_worker_costs_its_cache_and_not_a_bit(cluster: ClusterUnderTest) -> None:
    target = cluster.grpc_target
    prompt = "a bird in the hand is worth two in the bush " * 3
    before, _ = checksums(target, prompt, "")
    for name in ("attention-0", "attention-1"):
        dead = {record.boot_id for record in cluster.records("attention") if record.worker_id == name}
        cluster.kill(name)
        assert checksums(target, prompt, "")[0] == before
        until(partial(both_serve, cluster, dead), "it does not come back")
