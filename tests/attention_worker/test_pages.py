"""The page pool under random use, against a simple model of it: users, names, places, and who is evicted first."""

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from services.attention_worker.engine.host_tier import OUT, RECEIVED
from services.attention_worker.engine.pages import PagePool
from services.prefixes.page_names import PageNames, root_name

SIZE, ROWS, LONGEST = 4, 5, 24
ROOT = root_name("class", SIZE)


def names_of(ids: list[int], pages: int) -> list[bytes]:
    return PageNames(ROOT, SIZE).of(ids, pages * SIZE)


class PoolMachine(RuleBasedStateMachine):
    """Rows of few different ids, so that they have pages in common. `content`: the ids that were written to a page."""

    @initialize(pages=st.integers(2, 14), places=st.sampled_from([0, 0, 1, 2, 5, 20]))
    def start(self, pages: int, places: int) -> None:
        self.pool = PagePool(pages, SIZE, ROWS, LONGEST, places)
        self.in_host: dict[int, list[int]] = {}  # what was copied to host memory
        self.ids: dict[int, list[int]] = {}
        self.computed: dict[int, int] = {}
        self.content: dict[int, list[int]] = {}

    @rule(kinds=st.lists(st.integers(0, 1), min_size=1, max_size=LONGEST // SIZE), rest=st.integers(0, SIZE - 1))
    def admit(self, kinds: list[int], rest: int) -> None:
        ids = [kind * 10 + place for kind in kinds for place in range(SIZE)][: LONGEST - rest] + [99] * rest
        names = names_of(ids, (len(ids) - 1) // SIZE)
        hits = self.pool.cached(names)
        here = [self.named()[name] for name in names[:hits] if name in self.named()]
        fresh, free = self.pool.pages_for(len(ids)) - len(here), self.pool.available
        held = set(self.pool.table_SX[self.pool.table_SX >= 0].tolist())
        idle = sum(page not in held for page in here)
        evictions = self.pool.evictions
        row = self.pool.allocate(len(ids), names[:hits])
        assert (row is None) == (len(self.ids) == ROWS or fresh > free - idle)
        if row is None:
            assert self.pool.available == free
            assert self.pool.evictions == evictions
            return
        assert row not in self.ids
        self.ids[row], self.computed[row] = ids, hits * SIZE
        self.copy()
        for page in self.pool.table_SX[row, hits:].tolist():
            self.content.pop(page, None)

    def copy(self) -> None:
        received = self.pool.host.take_received()
        for page, place, kind in self.pool.host.take_moves():
            if kind == OUT:
                self.in_host[place] = list(self.content[page])
            else:
                self.content[page] = list(received[place] if kind == RECEIVED else self.in_host[place])

    @rule(
        kinds=st.lists(st.integers(0, 1), min_size=1, max_size=LONGEST // SIZE),
        start=st.integers(0, 2),
    )
    def receive(self, kinds: list[int], start: int) -> None:
        ids = [kind * 10 + place for kind in kinds for place in range(SIZE)]
        names, available = names_of(ids, len(kinds)), self.pool.available
        keep = {name for name in names if name in self.named()}
        for number, name in enumerate(names[start:], start):
            if not self.pool.receive(name, bytes(ids[number * SIZE : (number + 1) * SIZE]), {*names}):
                assert not self.pool._free
                break
            assert name in self.named()
        assert keep <= self.named().keys(), "the pages that were there of the same sequence make no room"
        assert self.pool.available == available
        self.read(ids)
        self.copy()
        self.read(ids)
        self.pool.refresh(names)

    def read(self, ids: list[int]) -> None:
        """Every page that may be read now holds what its name says."""
        for place, (number, in_host) in enumerate(self.pool.held(names_of(ids, len(ids) // SIZE))):
            content = self.in_host[number] if in_host else self.content[number]
            assert list(content) == ids[place * SIZE : (place + 1) * SIZE]

    @precondition(lambda self: self.ids)
    @rule(data=st.data(), tokens=st.integers(1, 2 * SIZE))
    def compute(self, data: st.DataObject, tokens: int) -> None:
        row = data.draw(st.sampled_from(sorted(self.ids)))
        ids = self.ids[row]
        end = min(len(ids), self.computed[row] + tokens)
        for place in range(self.computed[row], end):
            page = int(self.pool.table_SX[row, place // SIZE])
            assert page not in self.named().values(), "a page with a name is not written to"
            written = self.content.setdefault(page, [])
            assert len(written) == place % SIZE
            written.append(ids[place])
        self.computed[row] = end
        self.pool.publish(row, names_of(ids, end // SIZE))

    @precondition(lambda self: self.ids)
    @rule(data=st.data())
    def share(self, data: st.DataObject) -> None:
        row = data.draw(st.sampled_from(sorted(self.ids)))
        start = self.computed[row] // SIZE
        wanted = names_of(self.ids[row], (len(self.ids[row]) - 1) // SIZE)[start:]
        cached = self.pool.cached(wanted)
        found = self.pool.share(row, start, wanted)
        assert found == cached, "also what host memory has"
        assert all(name in self.named() for name in wanted[:found])
        self.copy()
        self.computed[row] = max(self.computed[row], (start + found) * SIZE)
        self.drop_free()

    @precondition(lambda self: self.ids)
    @rule(data=st.data())
    def free(self, data: st.DataObject) -> None:
        self.release(data.draw(st.sampled_from(sorted(self.ids))))

    @precondition(lambda self: self.ids)
    @rule(data=st.data(), kinds=st.lists(st.integers(0, 1), min_size=1, max_size=LONGEST // SIZE))
    def several_leave(self, data: st.DataObject, kinds: list[int]) -> None:
        """What is foretold of a newcomer's pages is what it then lacks less."""
        names = names_of([kind * 10 + place for kind in kinds for place in range(SIZE)], len(kinds))
        names = names[: self.pool.cached(names)]
        leaves, lacking = self.pool.freeing(names), self.pool.lacking(LONGEST, names)
        for row in data.draw(st.lists(st.sampled_from(sorted(self.ids)), unique=True)):
            lacking -= leaves(row)
            self.release(row)
            assert self.pool.lacking(LONGEST, names) == lacking

    @precondition(lambda self: self.ids)
    @rule(data=st.data())
    def forget(self, data: st.DataObject) -> None:
        row = data.draw(st.sampled_from(sorted(self.ids)))
        names = names_of(self.ids[row], self.computed[row] // SIZE)
        names = [name for place, name in enumerate(names) if self.named().get(name) == self.pool.table_SX[row, place]]
        self.pool.forget(row)
        assert not any(name in self.pool.host for name in names)
        assert not set(self.pool.table_SX[row].tolist()) & set(self.named().values())
        self.release(row)

    def release(self, row: int) -> None:
        self.pool.free(row)
        del self.ids[row], self.computed[row]
        self.drop_free()

    def drop_free(self) -> None:
        for page in self.pool._free:
            self.content.pop(page, None)

    def named(self) -> dict[bytes, int]:
        return self.pool._page

    @invariant()
    def every_page_is_in_one_place(self) -> None:
        held = {page for row in self.ids for page in self.pool.table_SX[row].tolist() if page >= 0}
        free, idle = self.pool._free, list(self.pool._idle)
        assert sorted([*held, *free, *idle]) == list(range(self.pool.total))
        assert self.pool.used == len(held)
        assert set(idle) <= set(self.named().values())
        assert not set(free) & set(self.named().values())
        unused = [row for row in range(ROWS) if row not in self.ids]
        assert (self.pool.table_SX[unused] == -1).all()

    @invariant()
    def a_place_in_host_memory_has_one_page(self) -> None:
        host = self.pool.host
        assert len({*host._free, *host._place.values()}) == len(host._free) + len(host)

    @invariant()
    def every_page_has_as_many_users_as_rows(self) -> None:
        rows = [self.pool.table_SX[row].tolist() for row in self.ids]
        assert self.pool._users == [sum(page in row for row in rows) for page in range(self.pool.total)]

    @invariant()
    def what_a_page_holds_is_what_its_name_says(self) -> None:
        for row, ids in self.ids.items():
            for place in range(self.computed[row]):
                page = int(self.pool.table_SX[row, place // SIZE])
                assert self.content[page][place % SIZE] == ids[place]


TestPool = PoolMachine.TestCase


def row_of(pool: PagePool, ids: list[int]) -> int:
    """A row whose full pages are computed and named."""
    names = names_of(ids, len(ids) // SIZE)
    row = pool.allocate(len(ids), names[: pool.cached(names)])
    assert row is not None
    pool.publish(row, names)
    return row


def test_what_nobody_has_used_for_longest_goes_first_and_ends_go_before_beginnings() -> None:
    pool = PagePool(6, SIZE, ROWS, LONGEST)
    old, new = [1] * 8, [2] * 8
    for ids in (old, new, old):  # the old one is used again
        pool.free(row_of(pool, ids))
    assert pool.used == 0
    assert pool.named == 4
    left = []
    for pages in range(3, 7):
        row = pool.allocate(pages * SIZE)
        assert row is not None
        left.append((pool.cached(names_of(old, 2)), pool.cached(names_of(new, 2))))
        pool.free(row)
    assert left == [(2, 1), (2, 0), (1, 0), (0, 0)]
    assert pool.evictions == 4


def test_pages_in_use_are_not_evicted() -> None:
    pool = PagePool(4, SIZE, ROWS, LONGEST)
    row = row_of(pool, [1] * 8)
    assert pool.allocate(3 * SIZE) is None
    assert not pool.grow(row, 5 * SIZE)
    assert pool.cached(names_of([1] * 8, 2)) == 2
    second = pool.allocate(9, names_of([1] * 8, 2))
    assert second is not None, "two of its three pages are there"
    assert pool.used == 3
    pool.free(row)
    assert pool.used == 3
    pool.free(second)
    assert pool.used == 0


def test_names_depend_on_everything_before() -> None:
    ids = list(range(12))
    first = PageNames(ROOT, SIZE).of(ids, 12)
    assert PageNames(ROOT, SIZE).of([*ids, 5], 13) == first
    assert PageNames(ROOT, SIZE).of([*ids[:3], 77, *ids[4:]], 12)[1:] != first[1:]
    assert len({*first, *PageNames(root_name("another", SIZE), SIZE).of(ids, 12)}) == 6
    assert len({*first, *PageNames(root_name("class", SIZE, b"salt"), SIZE).of(ids, 12)}) == 6
    in_steps = PageNames(ROOT, SIZE)
    assert [in_steps.of(ids[:tokens], tokens) for tokens in (3, 4, 9, 12)] == [[], first[:1], first[:2], first]


@pytest.mark.parametrize("parts", [("ab", 4, b"c"), ("a", 4, b"bc"), ("ab", 41, b""), ("ab", 4, b"1c")])
def test_roots_of_other_parts_differ(parts: tuple[str, int, bytes]) -> None:
    assert (root_name(*parts) == root_name("ab", 4, b"c")) == (parts == ("ab", 4, b"c"))
