"""The epochs that a leader gives: above all that it can see, each once."""

from __future__ import annotations

from caracal_proto.placement_pb2 import Table

from services.membership.record import WorkerRecord
from services.router.placement.tables import TERM
from services.router.placement.terms import Terms


def leased(epoch: int, numerics_class: str = "a") -> WorkerRecord:
    return WorkerRecord(
        worker_id=f"expert-{epoch}",
        role="expert",
        address="h:1",
        boot_id="b",
        numerics_class=numerics_class,
        epoch=epoch,
    )


def test_a_term_begins_above_all_that_is_known() -> None:
    terms = Terms()
    assert terms.begin() == 1
    terms.see([leased(5), leased(TERM + 7)])
    assert terms.begin() == 2 * TERM
    assert [terms.next_epoch(0), terms.next_epoch(0), terms.next_epoch(2 * TERM + 5)] == [
        2 * TERM,
        2 * TERM + 1,
        2 * TERM + 6,
    ]


def test_a_table_is_believed_unless_a_worker_has_a_newer_one() -> None:
    terms = Terms()
    terms.see([leased(9), leased(4, "other")])
    assert not terms.believes(Table(epoch=8, numerics_class="a"), 0)
    assert terms.believes(Table(epoch=9, numerics_class="a"), 0)
    assert not terms.believes(Table(epoch=9, numerics_class="a"), 9)
    assert terms.believes(Table(epoch=7, numerics_class="other"), 0)


def test_a_leader_begins_anew_when_workers_are_beyond_it() -> None:
    terms = Terms()
    assert terms.must_begin(leads=True, leading=False, own_epoch=0, numerics_class="a")
    terms.begin()
    terms.see([leased(3)])
    assert terms.must_begin(leads=True, leading=True, own_epoch=2, numerics_class="a")
    assert not terms.must_begin(leads=True, leading=True, own_epoch=3, numerics_class="a")
    assert not terms.must_begin(leads=False, leading=False, own_epoch=2, numerics_class="a")


def test_no_term_begins_with_the_epochs_of_one_that_has_no_table_yet() -> None:
    first, second, third = Terms(), Terms(), Terms()
    second.saw(first.begin())
    assert second.begin() == TERM
    third.saw(5 + 101 * TERM)
    assert third.begin() == 1, "nobody of ours is so far ahead"


def test_a_term_that_redis_has_lost_is_remembered() -> None:
    terms = Terms()
    terms.saw(3 * TERM)
    terms.saw(0)
    terms.saw(TERM)
    assert terms.begin() == 4 * TERM


def test_a_leader_begins_anew_when_another_one_has_led_without_a_table() -> None:
    terms = Terms()
    terms.saw(0)
    first = terms.begin()
    terms.saw(first)
    assert not terms.must_begin(leads=True, leading=True, own_epoch=0, numerics_class="a")
    terms.saw(TERM)
    assert terms.must_begin(leads=True, leading=True, own_epoch=0, numerics_class="a")
    assert terms.begin() == 2 * TERM
    terms.saw(2 * TERM + 101 * TERM)
    assert not terms.must_begin(leads=True, leading=True, own_epoch=0, numerics_class="a"), "it is nobody's"
    terms.saw(0)
    assert not terms.must_begin(leads=True, leading=True, own_epoch=0, numerics_class="a"), "Redis has lost it"
    assert terms.began == 2 * TERM


def test_a_leader_begins_anew_before_its_term_ends() -> None:
    terms = Terms()
    epoch = terms.begin()
    while not terms.must_begin(leads=True, leading=True, own_epoch=epoch, numerics_class="a"):
        epoch = terms.next_epoch(epoch)
        assert epoch < TERM, "the next leader's term begins there"
    assert terms.begin() == TERM
    assert not terms.must_begin(leads=True, leading=True, own_epoch=epoch, numerics_class="a")


def test_a_leader_that_was_overtaken_gives_none_of_the_next_ones_epochs() -> None:
    old, new = Terms(), Terms()
    first = old.begin()
    new.saw(first)
    taken = new.begin()
    old.found(taken)
    assert old.next_epoch(0) == first
    assert old.next_epoch(taken) == first + 1, "the table that it has is the next leader's"
    assert [new.next_epoch(0), new.next_epoch(taken + 4)] == [taken, taken + 5]
