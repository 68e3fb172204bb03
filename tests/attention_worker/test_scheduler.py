"""The scheduler under random submits, cancels and steps: pages, token budget, order, progress."""

import math

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from services.attention_worker.engine.pages import PagePool
from services.attention_worker.engine.scheduler import CannotFit, Scheduler
from services.attention_worker.engine.sequence import Request, Sampling, Sequence
from services.attention_worker.engine.step_cost import Work
from services.attention_worker.engine.step_plan import Chunk
from services.prefixes.page_names import PageNames, root_name

PAGE_SIZE = 4
ROOT = root_name("class", PAGE_SIZE)


def make(key: int, prompt: int, answer: int, emitted: int = 0) -> Sequence:
    request = Request(
        request_id=str(key),
        prompt_ids=tuple(range(1, prompt + 1)),
        emitted_ids=(7,) * emitted,
        sampling=Sampling(max_tokens=answer),
    )
    names = PageNames(ROOT, PAGE_SIZE) if key % 3 else None
    return Sequence(key, request, frozenset(), prompt + answer, lambda tokens, ending: None, names=names)


def run(scheduler: Scheduler, chunks: list[Chunk], right: int = 0, drafts: int = 0) -> list[Sequence]:
    """Runs a step as the engine does: caches the chunks, appends tokens, removes and returns ended sequences.

    Of the drafts that it has, `right` are; then so many are made for the next step.
    """
    ended = []
    sampled = {chunk.sequence.key: chunk.samples for chunk in chunks}
    for chunk in chunks:
        sequence, samples = chunk.sequence, sampled[chunk.sequence.key]
        tokens = 1 + min(right, chunk.drafts)
        for _ in range(samples * tokens):
            assert sequence.ending is None, "a draft after the last token"
            sequence.append(9)
        scheduler.computed(sequence, chunk.known + samples * (tokens - 1))
    for chunk in chunks:
        sequence, samples = chunk.sequence, sampled[chunk.sequence.key]
        sequence.drafts = [9] * min(drafts, sequence.most_drafts) if samples else []
        if samples and sequence.ending:
            scheduler.remove(sequence)
            ended.append(sequence)
        elif len(sequence.drafts) > 1 and not scheduler.take_draft_pages(sequence, len(sequence.drafts)):
            sequence.drafts = [9]
    return ended


def build(pages: int, budget: int, max_running: int, max_itl_s: float = math.inf) -> Scheduler:
    pool = PagePool(pages, PAGE_SIZE, max_running, pages * PAGE_SIZE)
    return Scheduler(pool, budget, max_running, max_itl_s)


class SchedulerMachine(RuleBasedStateMachine):
    @initialize(
        pages=st.integers(2, 12),
        budget=st.integers(1, 24),
        max_running=st.integers(1, 6),
        max_itl_s=st.sampled_from([math.inf, 1.0, 2e-3, 1e-9]),
    )
    def start(self, pages: int, budget: int, max_running: int, max_itl_s: float) -> None:
        self.scheduler = build(pages, budget, min(max_running, budget), max_itl_s)
        self.capacity = pages * PAGE_SIZE
        self.live: dict[int, Sequence] = {}
        self.keys = 0
        self.first_runs: list[int] = []

    @rule(data=st.data())
    def submit(self, data: st.DataObject) -> None:
        prompt = data.draw(st.integers(1, self.capacity - 1))
        answer = data.draw(st.integers(1, self.capacity - prompt))
        emitted = data.draw(st.integers(0, answer - 1))
        self.scheduler.check_fits(prompt + answer)
        self.live[self.keys] = make(self.keys, prompt, answer, emitted)
        self.scheduler.submit(self.live[self.keys])
        self.keys += 1

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        self.scheduler.remove(self.live.pop(data.draw(st.sampled_from(sorted(self.live)))))

    @rule(seconds=st.sampled_from([1e-4, 1e-3, 30.0]), right=st.integers(0, 3), drafts=st.integers(0, 3))
    def step(self, seconds: float = 1e-3, right: int = 0, drafts: int = 0) -> None:
        decoding = [sequence for sequence in self.scheduler.running if sequence.remaining == 1]
        chunks = self.scheduler.schedule()
        assert bool(chunks) == bool(self.live), "work exists, so something runs"
        assert sum(chunk.length for chunk in chunks) <= self.scheduler.max_batch_tokens
        scheduled = [chunk.sequence for chunk in chunks]
        assert len({sequence.key for sequence in scheduled}) == len(scheduled)
        assert all(sequence in scheduled or sequence.row is None for sequence in decoding), "a decode was skipped"
        assert min(self.live, default=None) == min((sequence.key for sequence in scheduled), default=None)
        prompts = [chunk.sequence.key for chunk in chunks if chunk.sequence not in decoding]
        assert prompts == sorted(prompts), "prompts are scheduled in order of submission"
        for chunk in chunks:
            self.check_chunk(chunk)
            assert not chunk.drafts or chunk.sequence in decoding
        if chunks:
            self.scheduler.cost.observe(sum((chunk.work for chunk in chunks), Work()), seconds)
        for sequence in run(self.scheduler, chunks, right, drafts):
            del self.live[sequence.key]

    def check_chunk(self, chunk: Chunk) -> None:
        sequence = chunk.sequence
        assert chunk.length >= 1
        assert chunk.start == sequence.cached
        pages = self.scheduler.pages.table_SX[sequence.row]
        assert (pages[: self.scheduler.pages.pages_for(chunk.start + chunk.length)] >= 0).all(), "no page for the chunk"

    @invariant()
    def order_of_submission(self) -> None:
        keys = [sequence.key for sequence in [*self.scheduler.running, *self.scheduler.waiting]]
        assert keys == sorted(self.live)

    @invariant()
    def every_page_is_free_or_used_once(self) -> None:
        pool = self.scheduler.pages
        full: list[int] = []
        unfinished: list[int] = []  # which are going to be written to, so that no other row may have them
        for sequence in self.scheduler.running:
            pages, done = pool.table_SX[sequence.row].tolist(), sequence.cached // PAGE_SIZE
            full += pages[:done]
            unfinished += [page for page in pages[done:] if page >= 0]
        assert len(unfinished) == len(set(unfinished))
        assert not set(full) & set(unfinished)
        assert -1 not in full
        assert len({*full, *unfinished}) == pool.used
        assert all(sequence.row is None for sequence in self.scheduler.waiting)
        rows = [sequence.row for sequence in self.scheduler.running]
        assert len(rows) == len(set(rows))
        unused = [row for row in range(len(pool.table_SX)) if row not in rows]
        assert (pool.table_SX[unused] == -1).all()

    def teardown(self) -> None:
        if not hasattr(self, "scheduler"):
            return
        wanted = sum(sequence.max_length for sequence in self.live.values())
        for _ in range(200 * (wanted + 1)):
            if not self.live:
                break
            self.step()
        assert not self.live, "everything accepted finishes, preempted or not"
        assert self.scheduler.pages.used == 0


TestScheduler = SchedulerMachine.TestCase
TestScheduler.settings = settings(
    max_examples=150, stateful_step_count=40, suppress_health_check=[HealthCheck.too_slow]
)


def test_a_long_prompt_does_not_delay_decodes() -> None:
    scheduler = build(pages=64, budget=8, max_running=4)
    decoding = make(0, prompt=2, answer=40)
    scheduler.submit(decoding)
    run(scheduler, scheduler.schedule())
    scheduler.submit(make(1, prompt=100, answer=4))
    for step in range(12):
        chunks = scheduler.schedule()
        assert chunks[0].sequence is decoding
        assert [chunk.length for chunk in chunks] == [1, 7], f"step {step}"
        run(scheduler, chunks)
        assert decoding.generated == step + 2


def test_drafts_take_no_page_from_a_sequence_that_waits() -> None:
    scheduler = build(pages=4, budget=24, max_running=2)
    answer, waiting = make(0, prompt=3, answer=9), make(1, prompt=11, answer=4)
    scheduler.submit(answer)
    run(scheduler, scheduler.schedule(), drafts=3)
    assert len(answer.drafts) == 3, "which would be on the next page"
    scheduler.submit(waiting)  # needs all pages that are left
    chunks = scheduler.schedule()
    assert waiting.row is not None
    assert [(chunk.sequence.key, chunk.drafts) for chunk in chunks] == [(0, 0), (1, 0)]


def test_drafts_leave_half_of_the_tokens_to_prompts() -> None:
    scheduler = build(pages=64, budget=9, max_running=5)
    answers = [make(key, prompt=2, answer=60) for key in range(4)]
    for sequence in answers:
        scheduler.submit(sequence)
    while not all(sequence.drafts for sequence in answers):
        run(scheduler, scheduler.schedule(), drafts=3)
    assert sum(chunk.length for chunk in scheduler.schedule()) == 9, "alone, drafts take all of it"
    prompt = make(4, prompt=30, answer=1)
    scheduler.submit(prompt)
    for _ in range(12):
        chunks = scheduler.schedule()
        assert sum(chunk.length for chunk in chunks) == 9
        run(scheduler, chunks, right=1, drafts=3)
    assert prompt.row is None, "its answer is complete, beside four that go on"
    assert prompt.generated == 1


def test_the_latest_sequence_is_preempted_and_continues_its_answer() -> None:
    scheduler = build(pages=4, budget=16, max_running=3)
    old, new = make(0, prompt=4, answer=12), make(1, prompt=4, answer=6)
    scheduler.submit(old)
    scheduler.submit(new)
    ended: list[Sequence] = []
    while scheduler.preemptions == 0:
        ended += run(scheduler, scheduler.schedule())
    assert list(scheduler.waiting) == [new]
    assert new.cached == 0
    assert new.generated > 0, "what it has emitted is kept"
    emitted = list(new.ids)
    while scheduler.running or scheduler.waiting:
        ended += run(scheduler, scheduler.schedule())
    assert ended == [old, new]
    assert new.ids[: len(emitted)] == emitted
    assert len(new.ids) == new.max_length
    assert scheduler.pages.used == 0


def test_a_sequence_that_can_never_fit_is_rejected_with_the_counts() -> None:
    scheduler = build(pages=4, budget=16, max_running=2)
    scheduler.check_fits(16)
    with pytest.raises(CannotFit, match="17 tokens need 5 pages of 4, the cache has 4"):
        scheduler.check_fits(17)
