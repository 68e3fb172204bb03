"""Shares of several callers: of a step's time, of admission and of pages."""

import math
from collections import Counter

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from services.attention_worker.engine.draft_policy import DraftPolicy
from services.attention_worker.engine.pages import PagePool
from services.attention_worker.engine.scheduler import Scheduler
from services.attention_worker.engine.sequence import Request, Sampling, Sequence
from services.attention_worker.engine.step_cost import PRIOR_S, Work
from services.attention_worker.engine.step_plan import Chunk
from services.prefixes.page_names import PageNames, root_name

PAGE_SIZE = 4
HEAVY, LIGHT = 1, 2
SLOWDOWN = 1.75


def make(key: int, caller: int, prompt: int = 2, answer: int = 400, weight: float = 1.0, priority: int = 0) -> Sequence:
    request = Request(
        request_id=str(key),
        prompt_ids=tuple(range(1, prompt + 1)),
        sampling=Sampling(max_tokens=answer),
        caller=caller,
        weight=weight,
        priority=priority,
    )
    return Sequence(key, request, frozenset(), prompt + answer, lambda tokens, ending: None)


def build(pages: int = 9000, budget: int = 4096, max_running: int = 100, max_itl_s: float = math.inf) -> Scheduler:
    pool = PagePool(pages, PAGE_SIZE, max_running, pages * PAGE_SIZE)
    return Scheduler(pool, budget, max_running, max_itl_s, slowdown=SLOWDOWN)


def run(scheduler: Scheduler, chunks: list[Chunk]) -> list[Sequence]:
    """Runs a step as the engine does; returns the sequences that ended."""
    ended = []
    for chunk in chunks:
        samples = chunk.samples
        chunk.sequence.cached += chunk.length
        if samples:
            chunk.sequence.append(9)
            if chunk.sequence.ending:
                scheduler.remove(chunk.sequence)
                ended.append(chunk.sequence)
    return ended


def decoding(scheduler: Scheduler, *sequences: Sequence) -> None:
    for sequence in sequences:
        scheduler.submit(sequence)
    while not all(sequence.remaining == 1 for sequence in sequences):
        run(scheduler, scheduler.schedule())


def seconds(chunks: list[Chunk]) -> float:
    """What the scheduler's first estimate says of a step."""
    work = sum((chunk.work for chunk in chunks), Work())
    parts = (1, work.tokens, work.decode_keys, work.prompt_keys)
    return sum(cost * part for cost, part in zip(PRIOR_S, parts, strict=True))


def test_one_caller_has_every_row_of_every_step() -> None:
    scheduler = build()
    decoding(scheduler, *(make(key, HEAVY) for key in range(50)))
    assert len(scheduler.schedule()) == 50


def test_a_caller_with_one_sequence_waits_at_most_a_few_rows_for_one_with_many() -> None:
    scheduler = build()
    heavy, light = [make(key, HEAVY) for key in range(50)], make(50, LIGHT)
    decoding(scheduler, *heavy, light)
    started = [sequence.generated for sequence in heavy]
    alone_s = 2 * PRIOR_S[1] + PRIOR_S[0]
    for _ in range(20):
        chunks = scheduler.schedule()
        assert light in [chunk.sequence for chunk in chunks], "its row is in every step"
        assert seconds(chunks) <= SLOWDOWN * alone_s * 1.01
        run(scheduler, chunks)
    turns = [after.generated - before for after, before in zip(heavy, started, strict=True)]
    assert max(turns) - min(turns) <= 1, "the others take turns"
    assert min(turns) >= 1
    scheduler.remove(light)
    assert len(scheduler.schedule()) == 50, "alone again, it has every row"


def test_a_crowd_takes_no_drafts_from_a_caller_with_one_sequence() -> None:
    scheduler = build()
    heavy, light = [make(key, HEAVY) for key in range(50)], make(50, LIGHT)
    decoding(scheduler, *heavy, light)
    alone_s = 5 * PRIOR_S[1] + PRIOR_S[0]
    for _ in range(20):
        for sequence in (*heavy, light):
            sequence.drafts = [7, 7, 7]
        chunks = scheduler.schedule()
        (own,) = [chunk for chunk in chunks if chunk.sequence is light]
        assert own.drafts == 3
        assert seconds(chunks) <= SLOWDOWN * alone_s * 1.01
        run(scheduler, [Chunk(chunk.sequence, chunk.start, 1) for chunk in chunks])
    assert min(sequence.generated for sequence in heavy) > 1, "the others have their turns"


def test_how_many_tokens_to_draft_of_a_caller_with_one_sequence_does_not_depend_on_a_crowd() -> None:
    scheduler = build()
    heavy, light = [make(key, HEAVY) for key in range(50)], make(50, LIGHT)
    decoding(scheduler, *heavy, light)
    policy = DraftPolicy(3, scheduler.cost)
    policy.begin([light], [light])
    alone = policy.wanted(light)
    assert alone > 0
    everyone = [*heavy, light]
    policy.begin(everyone, scheduler.fair.spared(everyone))
    assert [policy.wanted(sequence) for sequence in everyone] == [0] * 50 + [alone]


def test_a_weight_buys_rows() -> None:
    scheduler = build()
    heavy = [make(key, HEAVY, weight=4.0) for key in range(40)]
    other = [make(40 + key, LIGHT) for key in range(40)]
    decoding(scheduler, *heavy, *other, make(80, 3))
    rows = Counter[int]()
    for _ in range(15):
        chunks = scheduler.schedule()
        rows.update(chunk.sequence.request.caller for chunk in chunks)
        run(scheduler, chunks)
    ratio = rows[HEAVY] / rows[LIGHT]
    assert 3 < ratio < 5


def test_prompts_of_a_caller_with_many_wait_for_one_with_few() -> None:
    scheduler = build()
    light = make(0, LIGHT)
    decoding(scheduler, light)
    for key in range(1, 30):
        scheduler.submit(make(key, HEAVY, prompt=100))
    steps = 0
    while any(sequence.remaining > 1 for sequence in (*scheduler.running, *scheduler.waiting)) and steps < 2000:
        chunks = scheduler.schedule()
        if len(scheduler.running) > 3 and light.row is not None:
            assert seconds(chunks) < 3 * (PRIOR_S[0] + 2 * PRIOR_S[1])
        run(scheduler, chunks)
        steps += 1
    assert steps < 2000, "they end all the same"


def test_a_prompt_of_a_caller_with_few_goes_before_the_rows_of_one_with_many() -> None:
    scheduler = build()
    decoding(scheduler, *(make(key, HEAVY) for key in range(60)))
    light = make(60, LIGHT, prompt=20)
    scheduler.submit(light)
    scheduler.schedule()
    assert light.row is not None
    chunks = scheduler.schedule()
    assert max(chunk.length for chunk in chunks) == 20, "whole, in one step"


def test_who_has_least_is_admitted_first() -> None:
    scheduler = build(max_running=2)
    for key in range(4):
        scheduler.submit(make(key, HEAVY, answer=2))
    scheduler.submit(make(4, LIGHT, answer=2))
    run(scheduler, scheduler.schedule())
    assert [sequence.key for sequence in scheduler.running] == [0, 4]


def test_a_caller_without_pages_gets_some_of_the_one_that_has_most() -> None:
    scheduler = build(pages=16)
    heavy = [make(key, HEAVY, prompt=12, answer=20) for key in range(4)]
    decoding(scheduler, *heavy)
    light = make(4, LIGHT, prompt=7, answer=4)
    scheduler.submit(light)
    run(scheduler, scheduler.schedule())
    assert light.row is not None
    assert scheduler.preemptions == 1
    assert heavy[3].row is None, "the latest gives way"
    ended: list[Sequence] = []
    while scheduler.running or scheduler.waiting:
        ended += run(scheduler, scheduler.schedule())
    assert ended[0] is light
    assert {one.key for one in ended} == {0, 1, 2, 3, 4}


def sharing(scheduler: Scheduler, count: int) -> list[Sequence]:
    """Running sequences of one caller that have 6 pages in common, and one of their own."""
    sequences = [make(key, HEAVY, prompt=25, answer=20) for key in range(count)]
    for sequence in sequences:
        sequence.names = PageNames(root_name("", PAGE_SIZE), PAGE_SIZE)
        scheduler.submit(sequence)
        for chunk in scheduler.schedule():
            if (length := chunk.length) > 1:
                scheduler.computed(chunk.sequence, length)
                chunk.sequence.append(30 + chunk.sequence.key)
    assert scheduler.pages.named == 6
    return sequences


def test_pages_that_others_have_as_well_are_no_room() -> None:
    scheduler = build(pages=6 + 8)
    heavy = sharing(scheduler, 8)
    light = make(8, LIGHT, prompt=9, answer=4)
    scheduler.submit(light)
    scheduler.schedule()
    assert light.row is not None, "in the step in which others gave way"
    assert [one.key for one in heavy if one.row is None] == [5, 6, 7], "a page of each"


def test_nobody_gives_way_where_that_would_not_be_enough() -> None:
    scheduler = build(pages=6 + 5)
    heavy = sharing(scheduler, 5)
    scheduler.submit(make(5, LIGHT, prompt=19, answer=4))  # lacks 5
    scheduler.schedule()
    assert scheduler.preemptions == 0
    assert all(one.row is not None for one in heavy)


def test_callers_with_little_are_not_preempted_for_each_other() -> None:
    scheduler = build(pages=16)
    decoding(scheduler, *(make(key, HEAVY, prompt=26, answer=4) for key in range(2)))
    scheduler.submit(make(2, LIGHT, prompt=20, answer=4))
    scheduler.schedule()
    assert scheduler.preemptions == 0


def test_the_lowest_priority_of_a_caller_is_admitted_first() -> None:
    scheduler = build(max_running=1)
    for key, priority in enumerate([0, 5, -1, 5, -1, 0]):
        scheduler.submit(make(key, HEAVY, answer=1, priority=priority))
    order = []
    while scheduler.waiting or scheduler.running:
        order += [sequence.key for sequence in run(scheduler, scheduler.schedule())]
    assert order == [2, 4, 0, 5, 1, 3]


def test_a_priority_counts_for_nothing_beside_other_callers() -> None:
    scheduler = build(max_running=2)
    for key in range(4):
        scheduler.submit(make(key, HEAVY, answer=2, priority=-1000))
    scheduler.submit(make(4, LIGHT, answer=2, priority=1000))
    run(scheduler, scheduler.schedule())
    assert [sequence.key for sequence in scheduler.running] == [0, 4]


def test_the_highest_priority_of_a_caller_gives_way_first() -> None:
    scheduler = build(pages=8)
    kept, first = make(1, HEAVY, prompt=8, answer=12, priority=-1), make(0, HEAVY, prompt=8, answer=12, priority=3)
    decoding(scheduler, first, kept)
    ended: list[Sequence] = []
    while not scheduler.preemptions:
        ended += run(scheduler, scheduler.schedule())
    assert (first.row, kept.row is None) == (None, False), "although it came first"
    while scheduler.running or scheduler.waiting:
        ended += run(scheduler, scheduler.schedule())
    assert ended == [kept, first]


def test_the_prompt_of_the_lowest_priority_goes_first() -> None:
    scheduler = build(budget=200, max_running=3)
    late = make(0, HEAVY, prompt=300, priority=1)
    scheduler.submit(late)
    run(scheduler, scheduler.schedule())
    assert late.cached == 200
    urgent = make(1, HEAVY, prompt=150)
    scheduler.submit(urgent)
    run(scheduler, scheduler.schedule())
    assert (late.remaining, urgent.cached) == (1, 100), "it was admitted with what was left of the step"
    other = make(2, HEAVY, prompt=300, priority=2)
    scheduler.submit(other)
    chunks = scheduler.schedule()
    assert [(chunk.sequence.key, chunk.length) for chunk in chunks] == [(0, 1), (1, 50), (2, 149)]


class SharedMachine(RuleBasedStateMachine):
    """Random callers, weights, pages and costs: something always runs, everything ends, and no page is used twice."""

    @initialize(
        pages=st.integers(2, 12),
        budget=st.integers(1, 24),
        max_running=st.integers(1, 6),
        max_itl_s=st.sampled_from([math.inf, 2e-3, 1e-9]),
    )
    def start(self, pages: int, budget: int, max_running: int, max_itl_s: float) -> None:
        self.scheduler = build(pages, budget, min(max_running, budget), max_itl_s)
        self.capacity = pages * PAGE_SIZE
        self.live: dict[int, Sequence] = {}
        self.keys = 0
        self.weights: dict[int, float] = {}

    @rule(data=st.data(), caller=st.integers(0, 3), weight=st.sampled_from([0.1, 1.0, 5.0]))
    def submit(self, data: st.DataObject, caller: int, weight: float) -> None:
        prompt = data.draw(st.integers(1, self.capacity - 1))
        answer = data.draw(st.integers(1, self.capacity - prompt))
        weight = self.weights.setdefault(caller, weight)
        priority = data.draw(st.integers(-1, 1))
        self.live[self.keys] = make(self.keys, caller, prompt, answer, weight, priority)
        self.scheduler.submit(self.live[self.keys])
        self.keys += 1

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        self.scheduler.remove(self.live.pop(data.draw(st.sampled_from(sorted(self.live)))))

    @rule(seconds=st.sampled_from([1e-4, 1e-3, 30.0]))
    def step(self, seconds: float = 1e-3) -> None:
        chunks = self.scheduler.schedule()
        assert bool(chunks) == bool(self.live), "work exists, so something runs"
        assert sum(chunk.length for chunk in chunks) <= self.scheduler.max_batch_tokens
        assert len({chunk.sequence.key for chunk in chunks}) == len(chunks)
        for chunk in chunks:
            assert chunk.sequence.row is not None
            assert chunk.start == chunk.sequence.cached
        if chunks:
            self.scheduler.cost.observe(sum((chunk.work for chunk in chunks), Work()), seconds)
        for sequence in run(self.scheduler, chunks):
            del self.live[sequence.key]

    @invariant()
    def nothing_is_lost_or_held_twice(self) -> None:
        if not hasattr(self, "scheduler"):
            return
        both = [*self.scheduler.running, *self.scheduler.waiting]
        assert sorted(sequence.key for sequence in both) == sorted(self.live)
        pool = self.scheduler.pages
        used = pool.table_SX[pool.table_SX >= 0].tolist()
        assert len(used) == len(set(used)) == pool.used

    def teardown(self) -> None:
        if not hasattr(self, "scheduler"):
            return
        wanted = sum(sequence.max_length for sequence in self.live.values())
        for _ in range(400 * (wanted + 1)):
            if not self.live:
                break
            self.step()
        assert not self.live, "everything accepted finishes"
        assert self.scheduler.pages.used == 0


TestShared = SharedMachine.TestCase
TestShared.settings = settings(max_examples=150, stateful_step_count=40, suppress_health_check=[HealthCheck.too_slow])
