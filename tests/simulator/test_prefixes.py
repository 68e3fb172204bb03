"""Conversations find what they said before in a worker's cache, and routers send them there."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from support.small_simulation import scenario

from services.prefixes.page_names import PageNames, root_name
from services.simulator.conversations import Conversations
from services.simulator.faults import Fault
from services.simulator.generation import Conversation, Generation
from services.simulator.simulation import Played, Scenario, play
from services.simulator.traffic import Arrivals, Kind, Lengths, Phase

PAGE = 16
KIND = Kind(
    prompt=Lengths(mean=200, median=180, most=800), answer=Lengths(mean=40, median=30, most=150), source="these tests"
)
TALKS = Conversations(
    opening=Arrivals(phases=[Phase(0.0, 1.5)], seconds=30.0, kind=KIND), turns=5.0, pause_s=1.0, most=4096
)


def talking(talks: Conversations = TALKS, **deployment: object) -> Scenario:
    given = {"pages": 4000, "timing": replace(scenario().deployment.timing, edge_s=0.0)} | deployment
    return scenario(seconds=30.0, arrivals=talks.generate, deployment=given)


def chains(played: Played) -> list[list[Generation]]:
    """The turns of each conversation that came, in their order."""
    found: dict[int, list[Generation]] = {}
    for one in played.outcomes.generations:
        assert one.conversation is not None
        found.setdefault(one.conversation.number, []).append(one)
    return list(found.values())


def reusable(turns: list[Generation]) -> int:
    """Tokens of full pages that earlier turns have left of later ones' prompts."""
    return sum((a.prompt + a.answer - 1) // PAGE * PAGE for a, _ in pairwise(turns))


def test_prompts_of_a_conversation_begin_alike_and_others_share_the_system_prompt_alone() -> None:
    one, other, elsewhere = Conversation(1, 0, 40), Conversation(2, 0, 40), Conversation(3, 1, 40)
    assert one.ids(200)[:100] == one.ids(100)
    assert len(one.ids(100)) == 100

    def names(conversation: Conversation) -> list[bytes]:
        return PageNames(root_name("", PAGE), PAGE).of(conversation.ids(96), 96)

    alike = [a == b for a, b in zip(names(one), names(other), strict=True)]
    assert alike == [True, True, False, False, False, False]  # 40 tokens fill two pages
    assert not set(names(one)) & set(names(elsewhere))
    assert not set(names(Conversation(1))) & set(names(Conversation(2)))
    with pytest.raises(ValueError, match="ends in the 40"):
        one.ids(40)


def test_traffic_has_so_many_turns_each_of_which_goes_on_where_the_last_one_ended() -> None:
    talks = replace(TALKS, opening=replace(TALKS.opening, seconds=1000.0), systems=4, system_tokens=100, most=10**6)
    turns, numbers, systems = [], [], set()
    for first in talks.generate(1):
        one, count = first, 1
        assert one.conversation is not None
        assert one.prompt > 100
        systems.add(one.conversation.system)
        while one.then is not None:
            numbers.append(one.number)
            assert one.then.prompt > one.prompt + one.answer
            assert one.then.conversation is one.conversation
            one, count = one.then, count + 1
        numbers.append(one.number)
        turns.append(count)
    assert np.mean(turns) == pytest.approx(5.0, rel=0.1)
    assert numbers == list(range(len(numbers)))
    assert systems == set(range(4))
    short = replace(talks, most=500)
    assert all(one.then is None or one.then.prompt + one.then.answer <= 500 for one in short.generate(1))
    with pytest.raises(ValueError, match="a turn at least"):
        replace(talks, turns=0.5)


def test_turns_find_what_came_before_them_where_routers_send_them() -> None:
    played = play(talking(), 1)
    turns = chains(played)
    later = sum(len(each) - 1 for each in turns)
    assert later > 50
    assert {g.end for g in played.outcomes.generations} == {"finished"}
    assert {g.router for g in played.outcomes.generations} == {0, 1}  # the other one knows by hints alone
    wanted = sum(map(reusable, turns))
    assert 0.85 * wanted < played.prefix_hits <= wanted
    assert played.prefix_queries == sum(g.prompt for g in played.outcomes.generations)


def test_without_the_cache_prompts_are_computed_again_and_take_longer() -> None:
    cached, not_cached = play(talking(), 1), play(talking(prefix_cache=False), 1)
    assert not_cached.prefix_hits == 0 < cached.prefix_hits
    waited = [
        float(np.mean([one.ttft_s for turns in chains(played) for one in turns[1:]])) for played in (cached, not_cached)
    ]
    assert waited[0] < 0.8 * waited[1]


def test_a_cache_that_is_too_small_forgets_and_a_dead_worker_takes_its_own_along() -> None:
    large, small = play(talking(), 1), play(talking(pages=120), 1)
    assert small.prefix_hits < 0.7 * large.prefix_hits
    deaths = [Fault(at=at, kind="attention pod dies", ordinal=n) for n, at in enumerate((10.0, 18.0, 26.0))]
    died = play(replace(talking(), faults=deaths), 1)
    assert {g.end for g in died.outcomes.generations} == {"finished"}
    missed = [each.prefix_queries - each.prefix_hits for each in (large, died)]
    assert missed[1] > 1.1 * missed[0]


def test_a_system_prompt_is_computed_once_by_each_worker_and_crowds_none() -> None:
    alone = Conversations(opening=Arrivals(phases=[Phase(0.0, 20.0)], seconds=30.0, kind=KIND), system_tokens=40 * PAGE)
    played = play(talking(alone), 1)
    came = len(played.outcomes.generations)
    assert played.prefix_hits > 0.9 * came * 40 * PAGE
    plain = play(talking(alone, prefix_cache=False), 1)
    stalls = [max(g.ttft_s for g in each.outcomes.generations) for each in (played, plain)]
    assert stalls[0] <= stalls[1]


def test_a_seed_gives_the_same_and_runs_of_steps_change_nothing() -> None:
    def seen(played: Played) -> list[tuple[object, ...]]:
        return [(g.number, g.arrived, g.first, g.last, g.tokens, g.end) for g in played.outcomes.generations]

    first = play(talking(), 3)
    assert seen(first) == seen(play(talking(), 3))
    assert seen(first) != seen(play(talking(), 4))
    slowly = replace(TALKS, opening=replace(TALKS.opening, phases=[Phase(0.0, 0.7)]))
    endless = {"max_itl_s": float("inf"), "slowdown": float("inf"), "attention": 1, "pages": 150}
    quick, slow = (play(replace(talking(slowly, **endless), skip=skip), 3) for skip in (True, False))
    assert quick.steps == slow.steps
    assert quick.prefix_hits == slow.prefix_hits > 0
    for a, b in zip(quick.outcomes.generations, slow.outcomes.generations, strict=True):
        assert (a.number, a.end, a.tokens) == (b.number, b.end, b.tokens)
        assert (a.arrived, a.first, a.last) == pytest.approx((b.arrived, b.first, b.last), abs=1e-6)
