"""A worker of which one thread stands still while its sockets live, and a router that is killed: streams go on, and no
bit changes.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager

import pytest
from support.cluster_harness import CALLERS, ClusterUnderTest, Stream, answer_of, running_cluster, until
from support.numbered_events import Event, events_of, headers_of
from support.spinning_thread import AVAILABLE, SpinningThread, spinning
from support.tiny_checkpoint import PLAIN

from bench.frozen_thread import FrozenThread, frozen, threads

pytestmark = pytest.mark.processes

Fault = Callable[[int], AbstractContextManager[FrozenThread | SpinningThread]]
can_spin = pytest.mark.skipif(not AVAILABLE, reason="threads are made to spin on x86-64 alone")
# A pause that hangs no client; `python -m bench.stalls --kinds attention-frozen expert-frozen` measures what it takes.
LONGEST_S = 8.0


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterUnderTest]:
    folder = tmp_path_factory.mktemp("frozen")
    preset, environment = PLAIN | {"max_position_embeddings": 2048}, {"CARACAL_REPLICAS": "2"}
    yield from running_cluster(folder, preset, attention=2, expert=2, routers=2, environment=environment)


def check_answers(answers: list[list[Stream]]) -> None:
    """Each caller's answers are all whole and the same, bit for bit, with or without the fault."""
    assert len(answers) == CALLERS
    for caller in answers:
        assert {stream.finish_reason for stream in caller} == {"length"}
        assert len({(tuple(stream.ids), tuple(stream.checksums)) for stream in caller}) == 1
    longest = max(stream.longest_pause for caller in answers for stream in caller)
    print(f"longest pause {longest:.2f} s")
    assert longest < LONGEST_S


@pytest.mark.parametrize("fault", [frozen, pytest.param(spinning, marks=can_spin)], ids=["stopped", "spinning"])
@pytest.mark.parametrize(("role", "thread"), [("attention", "engine"), ("expert", "launches")])
def test_streams_go_on_elsewhere_and_it_comes_back(
    cluster: ClusterUnderTest, role: str, thread: str, fault: Fault
) -> None:
    victim = f"{role}-0"
    streams = cluster.streams()
    streams.wait_for_tokens_of_each(20)
    (number,) = threads(cluster.local.children[victim].pid, thread)
    with fault(number) as injected:
        streams.wait_for_tokens_of_each(100)
        assert injected.verify(), "it went on by itself"
    until(lambda: all(one.serving for one in cluster.records(role)), f"{victim} does not serve again")
    streams.wait_for_tokens_of_each(20)
    check_answers(streams.finish())


@pytest.mark.parametrize("fault", [frozen, pytest.param(spinning, marks=can_spin)], ids=["stopped", "spinning"])
def test_a_frozen_engine_is_shown_and_gets_nothing(cluster: ClusterUnderTest, fault: Fault) -> None:
    (number,) = threads(cluster.local.children["attention-1"].pid, "engine")
    with fault(number):
        until(lambda: "frozen" in {record.state for record in cluster.records("attention")}, "nobody says so", 20)
        assert answer_of(cluster)
        states = {record.worker_id: record.state for record in cluster.records("attention")}
        assert states == {"attention-0": "serving", "attention-1": "frozen"}
    until(lambda: all(record.serving for record in cluster.records("attention")), "it does not serve again")


def ids_of(events: list[Event]) -> list[int]:
    choices = [choice for event in events if event.data != "[DONE]" for choice in json.loads(event.data)["choices"]]
    return [token for choice in choices for token in choice["token_ids"]]


def test_a_killed_routers_streams_go_on_at_another(cluster: ClusterUnderTest) -> None:
    first, second = (f"{url}/v1/completions" for url in reversed(cluster.local.urls))
    bodies: list[dict[str, object]] = [
        {"prompt": "the cat sat", "stream": True, "max_tokens": 1500, "ignore_eos": True, "return_token_ids": True}
        | {"seed": number, "temperature": 0.8}
        for number in range(2)
    ]
    ids = [uuid.uuid4().hex for _ in bodies]
    begun: list[list[Event]] = [[] for _ in bodies]
    with ThreadPoolExecutor(len(bodies)) as pool:
        runs = [
            pool.submit(events_of, first, body, headers_of(id), events=events)
            for body, id, events in zip(bodies, ids, begun, strict=True)
        ]
        until(lambda: all(map(len, begun)) or any(run.done() for run in runs), "a stream does not begin")
        cluster.kill("router-1")
        for run in runs:
            run.result(60)
    assert all(events[-1].data != "[DONE]" for events in begun), "they were not cut"
    for body, id, events in zip(bodies, ids, begun, strict=True):
        rest = events_of(second, body, headers_of(id, events[-1].id))
        assert rest[-1].data == "[DONE]"
        whole = events_of(second, body, headers_of(uuid.uuid4().hex))
        assert ids_of([*events, *rest]) == ids_of(whole)
