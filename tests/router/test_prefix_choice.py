"""Which attention worker gets a prompt that some of them have cached, and what a router knows of their caches."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.prefixes.page_filter import LEAST_BYTES, MOST_BYTES, PageFilter
from services.prefixes.page_hint import PageHint
from services.prefixes.page_names import PageNames, root_name
from services.router.requests.prefix_hints import MOST_SENT, SENT_S, PrefixHints
from services.router.requests.prefix_lookup import MOST_PAGES, PrefixLookup
from services.router.requests.worker_choice import FEW, TOKENS_PER_SEQUENCE, AttentionWorkerView, choose_worker

SIZE = 16


def worker(name: str, **fields: Any) -> AttentionWorkerView:
    usual: dict[str, Any] = {"worker_id": name, "address": f"{name}:1", "boot_id": "b", "epoch": 1}
    return AttentionWorkerView(**usual | {"numerics_class": "x"} | fields)


def names(ids: list[int], salt: bytes = b"") -> list[bytes]:
    return PageNames(root_name("x", SIZE, salt), SIZE).of(ids, len(ids))


def hint(ids: list[int], boot_id: str = "b", version: int = 1) -> PageHint:
    return PageHint(boot_id, SIZE, version, PageFilter.over(names(ids)))


A, B, C = worker("a"), worker("b"), worker("c")


def chosen(cached: dict[str, int], open_here: dict[str, int] | None = None, **more: Any) -> str:
    found = choose_worker([A, B, C], open_here or {}, cached=cached, **more)
    assert found is not None
    return found.worker_id


def test_the_longest_cached_part_wins() -> None:
    assert chosen({"b": 64}) == "b"
    assert chosen({"b": 64, "c": 128}) == "c"
    assert chosen({"b": 64, "c": 64}, {"b": 1}) == "c"
    assert chosen({}, {"a": 1}) == "b", "nobody has any"


def test_a_busier_worker_wins_only_while_computing_takes_longer_than_waiting() -> None:
    assert chosen({"b": 16}, {"b": FEW}) == "b"
    assert chosen({"b": 16}, {"a": 9, "b": 9 + FEW, "c": 9}) == "b"
    assert chosen({"b": 16}, {"b": FEW + 1}) == "a"
    assert chosen({"b": 4096}, {"b": 15}) == "b"
    assert chosen({"b": 4096}, {"b": FEW + 4096 // TOKENS_PER_SEQUENCE + 1}) == "a"
    busy = choose_worker([A, worker("b", load=40.0)], {}, cached={"b": 4096})
    assert busy == A, "other routers' sequences count, too"


def test_a_worker_without_free_places_gets_no_sequence_for_its_cache() -> None:
    assert chosen({"b": 8192}, {"b": 4}, places={"b": 4}) == "a"
    assert chosen({"b": 8192}, {"b": 3}, places={"b": 4}) == "b"


def test_failed_and_draining_workers_are_no_choice_whatever_they_have() -> None:
    assert chosen({"b": 8192}, avoid={"b"}) == "a"
    draining = choose_worker([A, worker("b", draining=True)], {}, cached={"b": 8192})
    assert draining == A
    other = choose_worker([A, worker("b", numerics_class="y")], {}, cached={"b": 8192}, numerics_class="x")
    assert other == A


def test_hints_and_what_was_sent_since() -> None:
    hints, ids = PrefixHints(), list(range(5 * SIZE))
    asked = names(ids)
    assert hints.cached("a", asked, 0.0) == 0
    hints.update({"a": hint(ids[: 2 * SIZE]), "b": hint([])})
    assert (hints.page_size("a", "b"), hints.page_size("a", "another run"), hints.page_size("c", "b")) == (SIZE, 0, 0)
    assert (hints.cached("a", asked, 0.0), hints.cached("b", asked, 0.0)) == (2, 0)
    hints.sent("b", asked[:4], 10.0)
    hints.sent("c", asked, 10.0)
    assert [hints.cached(each, asked, 11.0) for each in "abc"] == [2, 4, 0]
    hints.update({"a": hint(ids[: 2 * SIZE]), "b": hint([], version=2)})
    assert hints.cached("b", asked, 11.0) == 4, "the hint is older than what was sent"
    assert hints.cached("b", asked, 11.0 + SENT_S) == 0
    hints.update({"b": hint([], boot_id="started again")})
    assert [hints.cached(each, asked, 11.0) for each in "ab"] == [0, 0]


def test_what_is_remembered_is_bounded() -> None:
    hints = PrefixHints()
    hints.update({"a": hint([])})
    many = names(list(range(2 * MOST_SENT * SIZE)))
    hints.sent("a", many, 1.0)
    assert hints.cached("a", many[MOST_SENT:], 1.0) == MOST_SENT
    assert hints.cached("a", many, 1.0) == 0, "the oldest are forgotten"


@given(st.lists(st.binary(min_size=32, max_size=32), unique=True, max_size=300))
def test_a_filter_has_all_its_names(found: list[bytes]) -> None:
    pages = PageFilter.over(found)
    assert all(name in pages for name in found)
    assert PageFilter.read(pages.bits) == pages


def test_a_filter_is_small_and_seldom_has_others() -> None:
    there, others = names(list(range(2000 * SIZE))), names(list(range(7, 2000 * SIZE)), b"s")
    pages = PageFilter.over(there)
    assert len(pages.bits) == 2048
    assert sum(name in pages for name in others) < 0.06 * len(others)
    assert len(PageFilter.over([]).bits) == LEAST_BYTES
    assert len(PageFilter.over(there * 20).bits) == MOST_BYTES


@pytest.mark.parametrize("size", [0, 1, 63, 65, 96, MOST_BYTES + 1, 2 * MOST_BYTES])
def test_a_filter_of_another_size_is_none(size: int) -> None:
    with pytest.raises(ValueError, match=f"{size} bytes"):
        PageFilter.read(bytes(size))


def test_a_hint_survives_its_way() -> None:
    given_ = hint(list(range(100)), "boot", 77)
    assert PageHint.from_bytes(given_.to_bytes()) == given_


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\n" + bytes(64),
        b"boot 16\n" + bytes(64),
        b"boot 16 1 1\n" + bytes(64),
        b"boot 16 -1\n" + bytes(64),
        b"boot 0 1\n" + bytes(64),
        b"boot 16 " + b"9" * 5000 + b"\n" + bytes(64),
        b" 16 1\n" + bytes(64),
        b"a\x00b 16 1\n" + bytes(64),
        b"\xff\xfe 16 1\n" + bytes(64),
        b"boot 16 1\n" + bytes(65),
        bytes(1 << 20),
    ],
)
def test_what_is_no_hint_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        PageHint.from_bytes(data)


def test_a_lookup_finds_the_worker_and_remembers_where_the_prompt_went() -> None:
    hints, ids = PrefixHints(), [7] * 100
    hints.update({"a": hint(ids[: 2 * SIZE]), "b": hint([])})

    async def scenario() -> None:
        first = PrefixLookup(hints, ids, b"")
        assert await first.cached_tokens([A, B, C]) == {"a": 32, "b": 0}
        first.sent_to(B)
        first.sent_to(C)
        again = await PrefixLookup(hints, ids, b"").cached_tokens([A, B, C])
        assert again == {"a": 32, "b": 96}, "the last token is always computed"
        assert await PrefixLookup(hints, ids, b"salt").cached_tokens([A, B]) == {"a": 0, "b": 0}
        assert await PrefixLookup(PrefixHints(), ids, b"").cached_tokens([A, B]) == {}

    asyncio.run(scenario())


def test_a_lookup_of_a_long_prompt_lets_the_event_loop_run() -> None:
    hints, ids, turns = PrefixHints(), [7] * (2 * MOST_PAGES * SIZE), 0
    hints.update({"a": hint([]), "b": hint([])})

    async def scenario() -> None:
        async def others() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        beside = asyncio.create_task(others())
        lookup = PrefixLookup(hints, ids, b"")
        await lookup.cached_tokens([A, B])
        lookup.sent_to(A)
        beside.cancel()
        assert (await lookup.cached_tokens([A]))["a"] == MOST_PAGES * SIZE

    asyncio.run(scenario())
    assert turns >= 10
