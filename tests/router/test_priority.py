"""`priority`: from the request to the worker, and the order in which one caller's requests get places."""

from __future__ import annotations

from typing import Any

import openai
import pytest
from support.gateway_harness import MODEL, Harness

from services.router.requests.callers import Caller
from services.router.requests.fair_queue import FairQueue

CHAT: list[Any] = [{"role": "user", "content": "hello"}]


def served(queue: FairQueue[str], places: int) -> list[str]:
    found = []
    while (item := queue.pop(places)) is not None:
        found.append(item)
    return found


def test_of_one_caller_the_lowest_priority_is_served_first() -> None:
    queue, one = FairQueue[str](), Caller("one")
    for item, priority in (("a", 0), ("b", -1), ("c", 7), ("d", -1), ("e", 0)):
        queue.push(one, item, priority)
    queue.remove(one, "d")
    assert served(queue, 1) == ["b"]
    queue.push(one, "f", -5)
    queue.release(one)
    assert served(queue, 100) == ["f", "a", "e", "c"]
    assert (queue.length, queue.callers) == (0, 0)


def test_between_callers_a_priority_counts_for_nothing() -> None:
    queue, one, two = FairQueue[str](), Caller("one"), Caller("two")
    for number in range(3):
        queue.push(one, f"one-{number}", -1000)
    queue.push(two, "two-0", 1000)
    assert served(queue, 2) == ["one-0", "two-0"]


def test_a_caller_of_weight_holds_nobody_up_who_may_have_the_places_that_are_kept() -> None:
    queue, heavy, light = FairQueue[str](), Caller("heavy", 100.0), Caller("light")
    for number in range(100):
        queue.push(heavy, f"heavy-{number}")
    assert len(served(queue, 64)) == 60
    for number in range(4):
        queue.push(light, f"light-{number}")
    assert served(queue, 64) == ["light-0", "light-1", "light-2", "light-3"]


def test_a_weight_that_changes_counts_at_once() -> None:
    queue, other = FairQueue[str](), Caller("other")
    for number in range(50):
        queue.push(Caller("one"), f"one-{number}")
        queue.push(other, f"other-{number}")
    queue.push(Caller("one", 4.0), "one-50")
    assert sum(item.startswith("one") for item in served(queue, 15)) == 12


def test_each_api_hands_it_on(router: Harness) -> None:
    client, sent = router.client(), router.fakes[0].requests
    client.completions.create(model=MODEL, prompt=[5, 6], extra_body={"priority": 3})
    client.chat.completions.create(model=MODEL, messages=CHAT, extra_body={"priority": -(2**31)})
    client.responses.create(model=MODEL, input="hi", store=False, extra_body={"priority": 2**31 - 1})
    client.completions.create(model=MODEL, prompt=[5, 6], extra_body={"priority": None})
    assert [request.priority for request in sent] == [3, -(2**31), 2**31 - 1, 0]


@pytest.mark.parametrize("priority", [2**31, -(2**31) - 1, 1.5, "1", True, [0]])
def test_what_is_no_priority_is_refused_by_name(router: Harness, priority: Any) -> None:
    with pytest.raises(openai.BadRequestError, match="priority"):
        router.client().completions.create(model=MODEL, prompt=[5, 6], extra_body={"priority": priority})
