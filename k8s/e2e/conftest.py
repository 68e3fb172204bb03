"""Fixtures: one cluster for the whole run, the answers of undisturbed streams, and the table of stalls."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

import pytest

from k8s.e2e.build import NoTarget
from k8s.e2e.cluster import Cluster
from k8s.e2e.records import Answer, Stalls
from k8s.e2e.report import Report
from k8s.e2e.streams import Streams
from k8s.e2e.targets import Target, find_target

UNDISTURBED_ROUNDS = 3
MayFail = Callable[[Answer], bool]


def never(answer: Answer) -> bool:
    return False


class Disturb(Protocol):
    """Runs streams from a pod while `do` runs; on `node` and against the release `to`, if given. Requests of which
    `may_fail` is true may fail; it is asked after `do`."""

    def __call__(
        self,
        event: str,
        do: Callable[[Streams], None],
        node: str = "",
        to: Cluster | None = None,
        may_fail: MayFail = never,
    ) -> list[Answer]: ...


@pytest.fixture(scope="session")
def target() -> Iterator[Target]:
    """A running cluster."""
    try:
        target = find_target()
    except NoTarget as none:
        pytest.skip(str(none))
    try:
        target.start()
        yield target
    finally:
        target.stop()


@pytest.fixture(scope="session")
def cluster(target: Target) -> Iterator[Cluster]:
    """The release installed on it: two routers, one worker of each kind."""
    cluster = Cluster(target)
    cluster.create_namespace()
    cluster.install("install", router__initialReplicas=2)
    cluster.wait_for_pods(router=2, attention=1, expert=1, redis=1)
    yield cluster
    if not target.own:
        cluster.remove()


@pytest.fixture(scope="session")
def report() -> Iterator[Report]:
    report = Report()
    yield report
    report.write()


@pytest.fixture(scope="session")
def undisturbed(cluster: Cluster, report: Report) -> dict[str, str]:
    """Returns the digest of each caller's answer without any disturbance, which must be the same in every round."""
    streams = Streams(cluster)
    streams.begin("undisturbed", UNDISTURBED_ROUNDS)
    answers = streams.finish()
    digests: dict[str, str] = {}
    for answer in answers:
        assert not answer.error
        assert digests.setdefault(answer.caller, answer.digest) == answer.digest
    report.add("nothing", Stalls.of(answers))
    return digests


@pytest.fixture
def disturbed(undisturbed: dict[str, str], cluster: Cluster, report: Report) -> Disturb:
    """Runs streams during a disturbance: no request may fail, and every answer must equal the undisturbed one."""

    def run(
        event: str,
        do: Callable[[Streams], None],
        node: str = "",
        to: Cluster | None = None,
        may_fail: MayFail = never,
    ) -> list[Answer]:
        streams = Streams(to or cluster, node)
        streams.begin(event.lower().replace(" ", "-"))
        do(streams)
        answers = streams.end()
        report.add(event, Stalls.of(answers))
        failed = [f"{one.caller}: {one.error}" for one in answers if one.error and not may_fail(one)]
        assert not failed, f"{len(failed)} of {len(answers)} requests failed: {failed[:5]}"
        wrong = [one.caller for one in answers if not one.error and one.digest != undisturbed[one.caller]]
        assert not wrong, f"{len(wrong)} of {len(answers)} answers differ from the undisturbed ones: {wrong[:5]}"
        return answers

    return run
