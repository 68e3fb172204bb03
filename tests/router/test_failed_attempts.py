"""What a failed attempt says of its worker and of its request."""

from __future__ import annotations

import grpc
import pytest
from caracal_proto.attention_pb2 import GenerateEvent, Token

from services.attention_worker import attempts
from services.router.requests import failover
from services.router.requests.attempt import Attempt, AttemptFailed
from services.router.requests.failover import BUSY, DRAINING, NOT_BEGUN, STANDS_STILL, recover
from services.router.requests.progress import GenerationProgress
from services.router.requests.worker_choice import AttentionWorkerView
from services.security.calls import OTHER_RUN

LOST, UNAVAILABLE = True, grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize(
    ("code", "details", "lost", "death", "by_link", "keeps_pages"),
    [
        (UNAVAILABLE, "the worker has ended the stream", LOST, True, True, False),
        (UNAVAILABLE, DRAINING, LOST, False, True, False),
        (UNAVAILABLE, OTHER_RUN, LOST, False, True, False),
        (UNAVAILABLE, DRAINING, False, False, False, True),
        (UNAVAILABLE, STANDS_STILL, False, True, False, False),
        (UNAVAILABLE, NOT_BEGUN, False, False, False, False),
        (UNAVAILABLE, "no answer for experts 1", False, False, False, True),
        (grpc.StatusCode.INTERNAL, "a step failed", False, True, False, False),
        (grpc.StatusCode.UNKNOWN, "", LOST, True, False, False),
        (grpc.StatusCode.DATA_LOSS, "", LOST, False, True, False),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, f"{BUSY}9 sequences are open", False, False, False, False),
    ],
)
def test_what_a_failure_says(
    code: grpc.StatusCode, details: str, lost: bool, death: bool, by_link: bool, keeps_pages: bool
) -> None:
    how = recover(GenerationProgress(), AttemptFailed(code, details, lost=lost))
    assert (how.death, how.by_link, how.keeps_pages) == (death, by_link, keeps_pages)
    assert how.avoid == (code is not grpc.StatusCode.DATA_LOSS)


def test_three_deaths_in_a_row_quarantine_and_one_token_ends_the_row() -> None:
    progress, death = GenerationProgress(), AttemptFailed(UNAVAILABLE, "", lost=True)
    assert [recover(progress, death).quarantined for _ in range(3)] == [False, False, True]
    progress.deaths_in_a_row = 0
    assert [recover(progress, None).quarantined for _ in range(4)] == [False] * 4


def test_two_deaths_quarantine_a_request_that_was_alone_or_had_just_begun() -> None:
    progress, death = GenerationProgress(), AttemptFailed(UNAVAILABLE, "", lost=True)
    assert [recover(progress, death, one).quarantined for one in (True, False)] == [False, False]
    assert recover(progress, death, True).quarantined
    attempt = progress.open_attempt()
    progress.accept(attempt, [Token(index=0, id=7)])
    assert [recover(progress, death, True).quarantined for _ in range(2)] == [False, True]


def test_who_is_implicated() -> None:
    """Nothing came of it before the worker died, or nobody else was there."""

    def attempt(received: bool) -> Attempt:
        made = Attempt(AttentionWorkerView(worker_id="a", address="a:1"), 1, lambda: None)
        if received:
            made.arrive(GenerateEvent())
        return made

    found = []
    for received, alone in ((True, False), (True, True), (False, False), (False, True)):
        one = attempt(received)
        assert not one.implicated
        one.fail(AttemptFailed(UNAVAILABLE, "", lost=True), alone)
        found.append(one.implicated)
    assert found == [False, True, True, True]


def test_only_a_worker_that_can_never_have_it_is_full() -> None:
    exhausted = grpc.StatusCode.RESOURCE_EXHAUSTED
    assert recover(GenerationProgress(), AttemptFailed(exhausted, "needs 9 pages, the cache has 4")).full
    assert not recover(GenerationProgress(), AttemptFailed(exhausted, f"{BUSY}4 sequences are open")).full


@pytest.mark.parametrize("name", ["STANDS_STILL", "NOT_BEGUN", "BUSY"])
def test_workers_and_routers_mean_the_same(name: str) -> None:
    assert getattr(attempts, name) == getattr(failover, name)
