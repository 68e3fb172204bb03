"""Golden digests: the first replica's count, what Redis has is checked for its shape, and only news are stored."""

from __future__ import annotations

import numpy as np

from services.router.placement.digests import Digests

ITEMS = np.array([0, 5, 9], np.int64)
GIVEN = np.array([11, 12, 13], np.uint64)


def test_the_first_replica_decides_and_others_are_compared() -> None:
    digests = Digests("c", layers=3, experts=4)
    assert digests.difference(ITEMS, GIVEN) is None
    digests.learn(ITEMS, GIVEN)
    assert digests.difference(ITEMS, GIVEN) is None
    assert digests.difference(ITEMS, GIVEN + np.uint64(1)) == (0, 12, 11, False)
    assert digests.unknown(np.arange(12)).tolist() == [1, 2, 3, 4, 6, 7, 8, 10, 11]


def test_what_was_stored_is_known_to_the_next_leader() -> None:
    first, second = (Digests("c", layers=3, experts=4) for _ in range(2))
    first.learn(ITEMS, GIVEN)
    stored = first.to_store()
    assert sorted(stored) == [0, 1, 2]
    assert not first.to_store()
    second.take_stored(stored)
    assert not second.to_store(), "it is in Redis already"
    assert second.difference(ITEMS, GIVEN) is None
    assert second.difference(ITEMS[1:], GIVEN[:2]) == (5, 11, 12, True)
    second.learn(ITEMS, GIVEN)
    assert second.difference(ITEMS[1:], GIVEN[:2]) == (5, 11, 12, False), "a live worker has confirmed it"


def test_stored_digests_of_another_shape_are_left_out() -> None:
    digests = Digests("c", layers=3, experts=4)
    digests.take_stored({0: b"", 1: b"x" * 31, 2: b"x" * 40, 3: b"x" * 32, -1: b"x" * 32})
    assert len(digests.unknown(np.arange(12))) == 12
