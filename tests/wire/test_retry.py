"""The choice of the next worker for a missing answer, case by case; and the compiled routing table."""

from __future__ import annotations

import pytest
from caracal_proto import placement_pb2
from caracal_proto.placements import layer_of

from services.router.dispatch.errors import (
    CallDamaged,
    CallRejected,
    DispatchError,
    InvalidReply,
    NotLoaded,
    StaleEpoch,
    WorkerUnavailable,
)
from services.router.dispatch.retry import (
    LAST_PAUSE_S,
    MOST_RESENDS,
    PeerFailure,
    RetryChoice,
    choose_retry,
    record_failure,
)
from services.router.dispatch.table import LayerReplicas, RoutingTable, compile_table

GONE = WorkerUnavailable("gone")


def failure_of(error: DispatchError, epoch: int = 3) -> PeerFailure:
    return record_failure(None, epoch, error)


def test_another_replica_is_asked_at_once() -> None:
    assert choose_retry({0: failure_of(GONE)}, 3, [[0, 1]], {0}, 0) == RetryChoice(frozenset({0}))


def test_one_expert_with_a_replica_is_enough_to_go_on_at_once() -> None:
    assert choose_retry({0: failure_of(GONE)}, 3, [[0], [0, 1]], {0, 1}, 0) == RetryChoice(frozenset({0}))


def test_the_only_worker_is_asked_again_after_pauses_that_grow_to_a_limit() -> None:
    pauses = [
        choose_retry({0: failure_of(InvalidReply("bits"))}, 3, [[0]], {0}, attempt).pause_s for attempt in range(12)
    ]
    assert choose_retry({0: failure_of(GONE)}, 3, [[0]], {0}, 0).banned == frozenset()
    assert 0 < pauses[0] < pauses[1] < pauses[2]
    assert pauses[-1] == LAST_PAUSE_S == max(pauses)


@pytest.mark.parametrize(
    ("error", "needs"),
    [(StaleEpoch("", 7), 7), (StaleEpoch("", 1), 4), (NotLoaded("", 5), 5), (NotLoaded("", 3), 4), (GONE, 0)],
)
def test_a_worker_that_named_an_epoch_is_asked_under_a_table_that_new(error: DispatchError, needs: int) -> None:
    failure = failure_of(error)
    assert failure.needs_epoch == needs
    if needs:
        before, after = (choose_retry({0: failure}, epoch, [[0]], {0}, 0) for epoch in (needs - 1, needs))
        assert before.banned == {0}
        assert before.pause_s > 0
        assert after == RetryChoice(frozenset()), "a newer table clears the failure"


def test_experts_on_no_worker_are_waited_for() -> None:
    assert choose_retry({}, 3, [[], [0]], {0}, 0).pause_s > 0


def test_a_damaged_call_is_sent_again_at_once_a_few_times() -> None:
    failure = None
    for _ in range(MOST_RESENDS - 1):
        failure = record_failure(failure, 3, CallDamaged("bits"))
        assert choose_retry({0: failure}, 3, [[0, 1]], {0}, 0) == RetryChoice(frozenset({0})), "a replica comes first"
        assert choose_retry({0: failure}, 3, [[0]], {0}, 0) == RetryChoice(frozenset())
    failure = record_failure(failure, 3, CallDamaged("bits"))
    assert choose_retry({0: failure}, 3, [[0]], {0}, 0).pause_s > 0
    assert choose_retry({0: failure_of(CallRejected("malformed"))}, 3, [[0]], {0}, 0).pause_s > 0


def test_a_compiled_table_lists_replicas_per_expert() -> None:
    lists = [[0, 2], [], [1]]
    layer = layer_of(lists)
    ends = [placement_pb2.Endpoint(worker_id=f"w{i}", boot_id="b", address=f"a{i}") for i in range(3)]
    table = compile_table(placement_pb2.Table(epoch=9, workers=ends, layers=[layer, layer]), 2, 3)
    assert table.epoch == 9
    assert table.layers[1].lists() == lists
    assert not table.layers[0].complete
    assert table.layers[0].without(frozenset({2, 1})).lists() == [[0], [], []]
    avoiding = table.avoiding({("w0", "b", "a0"), ("w1", "b", "a1")})
    assert avoiding.layers[0].lists() == [[2], [], [1]], "avoided only where there is another replica"
    assert table.avoiding(set()) is table


def test_the_empty_table_has_no_replicas() -> None:
    empty = RoutingTable.empty(2, 3)
    assert (empty.epoch, empty.workers, empty.layers[1].lists()) == (0, (), [[], [], []])
    assert LayerReplicas.of([[0], [1]]).complete
