"""The cost of steps is learned, and chunks of prompts follow it: the bound holds, and prompts end."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.attention_worker.engine.pages import PagePool
from services.attention_worker.engine.scheduler import Scheduler
from services.attention_worker.engine.sequence import Request, Sampling, Sequence
from services.attention_worker.engine.step_cost import MOST, PRIOR_S, StepCost, Work

# Seconds per step, token, key of a decode and key of a prompt.
TINY_ON_CPU = (3e-3, 8e-5, 1e-7, 5e-8)
LARGE_ON_CPU = (3e-2, 3e-3, 1e-6, 1e-6)
LARGE_ON_GPU = (1.5e-2, 2e-5, 2e-9, 2e-9)
LONG, STREAMS = 30_000, 8


def true_seconds(machine: tuple[float, ...], work: Work) -> float:
    counts = (1, work.tokens, work.decode_keys, work.prompt_keys)
    return sum(one * count for one, count in zip(machine, counts, strict=True))


@dataclass
class Simulation:
    """Eight running answers, while long prompts arrive one after another, on a machine of known speed."""

    machine: tuple[float, ...]
    scheduler: Scheduler
    noise: float = 0.0
    rng: Random = field(default_factory=lambda: Random(1))
    keys: int = 0

    def submit(self, prompt: int, answer: int) -> Sequence:
        request = Request(request_id="r", prompt_ids=(1,) * prompt, sampling=Sampling(max_tokens=answer))
        sequence = Sequence(self.keys, request, frozenset(), prompt + answer, lambda tokens, ending: None)
        self.keys += 1
        self.scheduler.submit(sequence)
        return sequence

    def step(self) -> float:
        """Runs one step; returns its seconds."""
        chunks = self.scheduler.schedule()
        work = sum((chunk.work for chunk in chunks), Work())
        seconds = true_seconds(self.machine, work) * self.rng.lognormvariate(0, self.noise)
        self.scheduler.cost.observe(work, seconds)
        for chunk in chunks:
            samples = chunk.samples
            chunk.sequence.cached += chunk.length
            if samples:
                chunk.sequence.append(9)
                if chunk.sequence.ending:
                    self.scheduler.remove(chunk.sequence)
        return seconds

    def run_streams(self, context: int = 1000) -> None:
        for _ in range(STREAMS):
            self.submit(context, 10**6)
        while len(self.scheduler.running) < STREAMS or any(each.generated < 20 for each in self.scheduler.running):
            self.step()

    def serve(self, prompts: int, length: int) -> Iterator[float]:
        """Yields the seconds of every step of so many prompts, one after another."""
        for _ in range(prompts):
            sequence = self.submit(length, 1)
            while not sequence.generated:
                yield self.step()


def simulation(machine: tuple[float, ...], max_itl_s: float, most: int, noise: float = 0.0) -> Simulation:
    return Simulation(machine, Scheduler(PagePool(4096, 64, 64, 131_072), most, 64, max_itl_s), noise)


def p99(seconds: list[float]) -> float:
    return sorted(seconds)[int(len(seconds) * 0.99)]


MACHINES = [
    pytest.param(TINY_ON_CPU, 0.2, 256, LONG, id="tiny on a CPU"),
    pytest.param(LARGE_ON_CPU, 0.2, 256, 3000, id="large on a CPU"),
    pytest.param(LARGE_ON_GPU, 0.1, 4096, LONG, id="large on a GPU"),
]


@pytest.mark.parametrize("noise", [0.0, 0.1])
@pytest.mark.parametrize(("machine", "bound_s", "most", "length"), MACHINES)
def test_p99_of_running_streams_stays_within_the_bound(
    machine: tuple[float, ...], bound_s: float, most: int, length: int, noise: float
) -> None:
    simulated = simulation(machine, bound_s, most, noise)
    simulated.run_streams()
    seconds = list(simulated.serve(4, length))
    assert p99(seconds) <= bound_s
    later = seconds[len(seconds) // 2 :]
    assert sum(later) / len(later) > 0.4 * bound_s, "and the time that it leaves is used"


@pytest.mark.parametrize(("machine", "bound_s", "most", "length"), MACHINES)
def test_chunks_of_a_number_of_tokens_break_the_bound(
    machine: tuple[float, ...], bound_s: float, most: int, length: int
) -> None:
    """Guards the test above: without a bound the same machines take longer."""
    simulated = simulation(machine, math.inf, most)
    simulated.run_streams()
    assert p99(list(simulated.serve(1, length))) > 1.5 * bound_s


def test_without_running_answers_chunks_are_as_large_as_a_step() -> None:
    simulated = simulation(LARGE_ON_CPU, 0.01, 256)
    sequence = simulated.submit(1000, 2)
    lengths = []
    while not sequence.generated:
        before = sequence.cached
        simulated.step()
        lengths.append(sequence.cached - before)
    assert lengths == [256, 256, 256, 232]


def test_a_prompt_ends_however_long_its_context_and_its_neighbours_steps() -> None:
    """One token of it takes more than the bound, and so do the decodes alone: it gets one token of every step."""
    simulated = simulation((1e-3, 1e-3, 1e-6, 1e-6), 5e-3, 256)
    simulated.run_streams()
    sequence = simulated.submit(100_000, 2)
    sequence.row, sequence.cached = simulated.scheduler.pages.allocate(100_001), 99_000
    simulated.scheduler.waiting.remove(sequence)
    simulated.scheduler.running.append(sequence)
    steps = 0
    while not sequence.generated:
        before = sequence.cached
        simulated.step()
        steps += 1
        assert 1 <= sequence.cached - before <= 2
    assert steps > 900


def test_decodes_that_take_the_whole_bound_leave_prompts_their_share() -> None:
    simulated = simulation((20e-3, 1e-4, 1e-9, 1e-9), 20e-3, 256)
    simulated.run_streams()
    sequence = simulated.submit(1000, 2)
    lengths = []
    while not sequence.generated:
        before = sequence.cached
        assert simulated.step() < 1.2 * 20e-3
        lengths.append(sequence.cached - before)
    assert min(lengths[5:-1]) >= 10, "2 ms, less the headroom, at 0.1 ms a token"


@pytest.mark.parametrize("factor", [0.01, 100.0])
def test_a_machine_of_another_speed_is_learned(factor: float) -> None:
    machine = tuple(factor * one for one in TINY_ON_CPU)
    cost, rng = StepCost(), Random(2)
    for _ in range(400):
        decodes = Work(STREAMS, STREAMS * rng.randrange(1, 5000), 0)
        prompt = Work.of_chunk(rng.randrange(LONG), rng.choice([1, 16, 256]), decode=False)
        work = rng.choice([decodes, prompt, decodes + prompt])
        cost.observe(work, true_seconds(machine, work))
    for start in (0, 2000, LONG):
        work = Work(STREAMS, STREAMS * 2000, 0) + Work.of_chunk(start, 64, decode=False)
        assert cost.predict(work) == pytest.approx(true_seconds(machine, work), rel=0.25)


def test_what_was_not_measured_may_take_long_and_what_was_may_not() -> None:
    machine, cost = tuple(20 * one for one in PRIOR_S), StepCost()
    decodes, prompt = Work(STREAMS, STREAMS * 2000, 0), Work.of_chunk(2000, 512, decode=False)
    assert cost.at_most(prompt) > true_seconds(machine, prompt)
    for _ in range(1000):
        cost.observe(decodes, true_seconds(machine, decodes))
    assert cost.at_most(decodes) < 2 * true_seconds(machine, decodes)
    assert cost.at_most(prompt) > true_seconds(machine, prompt), "no prompt was seen"
    for _ in range(20):
        cost.observe(prompt, true_seconds(machine, prompt))
    assert true_seconds(machine, prompt) < cost.at_most(prompt) < 2 * true_seconds(machine, prompt)


@pytest.mark.parametrize("seconds", [30.0, 1e9])
def test_one_odd_step_changes_little(seconds: float) -> None:
    cost = StepCost()
    work = Work(STREAMS, 8000, 0) + Work.of_chunk(2000, 64, decode=False)
    before = cost.predict(work)
    cost.observe(work, seconds)
    assert cost.predict(work) < 1.01 * MOST * before
    for _ in range(100):
        cost.observe(work, before)
    assert cost.predict(work) == pytest.approx(before, rel=0.01)


@given(
    start=st.integers(0, 131_072),
    most=st.integers(1, 4096),
    limit_s=st.floats(1e-4, 10),
    decodes=st.integers(0, 64),
)
def test_a_chunk_is_the_longest_that_fits(start: int, most: int, limit_s: float, decodes: int) -> None:
    cost = StepCost()
    before = Work(decodes, decodes * 5000, 0)
    length = cost.prompt_tokens(before, start, most, limit_s)

    def step(tokens: int) -> float:
        return cost.bound(before + Work.of_chunk(start, tokens, decode=False))

    assert 0 <= length <= most
    assert length == 0 or step(length) <= limit_s * (1 + 1e-9)
    assert length == most or step(length + 1) > limit_s * (1 - 1e-9)
