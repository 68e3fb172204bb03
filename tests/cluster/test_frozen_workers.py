"""A worker of which one thread stands still while its sockets live: its work goes elsewhere, and no bit changes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.cluster_harness import CALLERS, ClusterUnderTest, Stream, answer_of, running_cluster, until
from support.frozen_thread import frozen, threads

pytestmark = pytest.mark.processes

LONGEST_S = 8.0  # a pause that hangs no client; what it takes on a quiet machine is measured by a benchmark


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterUnderTest]:
    folder = tmp_path_factory.mktemp("frozen")
    yield from running_cluster(folder, attention=2, expert=2, environment={"CARACAL_REPLICAS": "2"})


def check_answers(answers: list[list[Stream]]) -> None:
    """Each caller's answers are all whole and the same, bit for bit, with or without the fault."""
    assert len(answers) == CALLERS
    for caller in answers:
        assert {stream.finish_reason for stream in caller} == {"length"}
        assert len({(tuple(stream.ids), tuple(stream.checksums)) for stream in caller}) == 1
    longest = max(stream.longest_pause for caller in answers for stream in caller)
    print(f"longest pause {longest:.2f} s")
    assert longest < LONGEST_S


@pytest.mark.parametrize(("role", "thread"), [("attention", "engine"), ("expert", "launches")])
def test_streams_go_on_elsewhere_and_it_comes_back(cluster: ClusterUnderTest, role: str, thread: str) -> None:
    victim = f"{role}-0"
    streams = cluster.streams()
    streams.wait_for_tokens_of_each(20)
    (number,) = threads(cluster.local.children[victim].pid, thread)
    with frozen(number) as fault:
        streams.wait_for_tokens_of_each(100)
        assert fault.verify(), "it went on by itself"
    until(lambda: all(one.serving for one in cluster.records(role)), f"{victim} does not serve again")
    streams.wait_for_tokens_of_each(20)
    check_answers(streams.finish())


def test_a_frozen_engine_is_shown_and_gets_nothing(cluster: ClusterUnderTest) -> None:
    (number,) = threads(cluster.local.children["attention-1"].pid, "engine")
    with frozen(number):
        until(lambda: "frozen" in {record.state for record in cluster.records("attention")}, "nobody says so", 20)
        assert answer_of(cluster)
        states = {record.worker_id: record.state for record in cluster.records("attention")}
        assert states == {"attention-0": "serving", "attention-1": "frozen"}
    until(lambda: all(record.serving for record in cluster.records("attention")), "it does not serve again")
