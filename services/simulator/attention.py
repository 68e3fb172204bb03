"""One attention worker: the engine's own scheduler and pages, with a step's time from the planner.

While a step can only be followed by the same decodes, one token on, many steps are one event: nobody waits or
has a prompt left, pages are free for all of them, and no caller has more than others. Whatever else happens ends the
run after the step that is under way.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from itertools import repeat
from typing import Literal

from services.attention_worker.engine.pages import PagePool
from services.attention_worker.engine.scheduler import Scheduler
from services.attention_worker.engine.sequence import Request, Sequence
from services.attention_worker.engine.step_cost import Work
from services.attention_worker.engine.step_plan import Chunk
from services.router.requests.worker_choice import AttentionWorkerView
from services.simulator.deployment import Deployment
from services.simulator.generation import Generation
from services.simulator.life import Life
from services.simulator.page_fetches import Handover, PageFetches, Source
from services.simulator.run_of_steps import Run
from services.simulator.step_time import StepTimes, StepWork
from services.simulator.steps_alike import contended, learn, steps_alike

Hold = Literal["experts", "stopped", "link"]


class Handed(Exception):
    """The worker has given a sequence up, or its router the worker. `why`: lost, draining or unavailable; silent, or
    expired with its request."""

    def __init__(self, why: str, source: Source | None = None) -> None:
        super().__init__(why)
        self.why, self.source = why, source  # of its pages


class SimulatedAttention:
    """`on_run` is called after each run of steps with those that got tokens; `skip` False: step by step."""

    def __init__(
        self,
        worker_id: str,
        boot_id: str,
        deployment: Deployment,
        times: StepTimes,
        loop: asyncio.AbstractEventLoop,
        on_run: Callable[[Run, list[Generation]], None],
        *,
        skip: bool = True,
    ) -> None:
        self.worker_id, self.boot_id = worker_id, boot_id
        self._d, self._times, self._loop, self._on_run = deployment, times, loop, on_run
        d = deployment
        pages = PagePool(d.pages, d.page_size, d.max_running, min(d.pages * d.page_size, 1 << 17))
        self.scheduler = Scheduler(pages, d.max_batch_tokens, d.max_running, d.max_itl_s, slowdown=d.slowdown)
        self._skip = skip
        self.fetches = PageFetches(self.scheduler, deployment, lambda: self._run.mean_s if self._run else 0.0, loop)
        self._open: dict[int, tuple[asyncio.Future[None], Generation]] = {}
        self._coming: dict[int, Sequence] = {}  # whose pages are on their way, by key
        self._left: list[Sequence] = []
        self._given_up: set[int] = set()  # keys of those that go on elsewhere: what they still give counts no more
        self._run: Run | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._keys = 0
        self._owed = 0  # tokens of decodes that have no page yet
        self.life = Life(deployment.timing, loop)
        self._holds: set[Hold] = set()  # what it waits for
        self.rows = 0  # of the step under way
        self.steps = self.total_rows = 0
        self.served_s = 0.0  # for which its steps have kept expert workers busy

    @property
    def blocked(self) -> bool:
        """Whether the step under way does not go on."""
        return bool(self._holds)

    @property
    def busy(self) -> bool:
        """Whether a step is under way."""
        return self._run is not None

    def view(self) -> AttentionWorkerView:
        """What its lease says of it."""
        scheduler = self.scheduler
        return AttentionWorkerView(
            worker_id=self.worker_id,
            address=self.worker_id,
            boot_id=self.boot_id,
            epoch=1,
            draining=self.life.draining,
            load=len(scheduler.running) + len(scheduler.waiting),
            kv_usage=scheduler.pages.used / scheduler.pages.total,
        )

    def submit(self, generation: Generation, request: Request, source: Source | None = None) -> asyncio.Future[None]:
        """Begins an attempt; the future is done when the answer is whole, and raises Handed if it is not to be.

        With a `source` the sequence is queued when its pages have come, or are to be computed. Raises CannotFit.
        """
        longest = generation.prompt + generation.answer
        self.scheduler.check_fits(longest)
        future: asyncio.Future[None] = self._loop.create_future()
        self._keys += 1
        shares = self._d.prefix_cache and (generation.conversation is not None or source is not None)
        names = generation.names(self._d.page_size) if shares else None
        sequence = Sequence(self._keys, request, frozenset(), longest, lambda *_: None, names=names)
        self._open[sequence.key] = future, generation
        if source is None or names is None:
            self._queue(sequence)
        else:
            self._coming[sequence.key] = sequence
            wanted = names.of(sequence.ids, sequence.reusable)
            fetch = self.fetches.fetch(generation.number, wanted, len(sequence.ids), source)
            self._loop.create_task(fetch).add_done_callback(lambda task: self._fetched(task, sequence))
        return future

    def _fetched(self, task: asyncio.Task[None], sequence: Sequence) -> None:
        if not task.cancelled():
            task.result()
            if self._coming.pop(sequence.key, None) is not None:
                self._queue(sequence)

    def _queue(self, sequence: Sequence) -> None:
        self.scheduler.submit(sequence)
        self._cut()

    def give_up(self, generation: Generation) -> None:
        """As `leave`: what has come of an answer counts, and what still comes does not, for it goes on elsewhere."""
        self._take_whole()
        self._given_up |= {key for key, (_, one) in self._open.items() if one is generation}
        self.leave(generation)

    def leave(self, generation: Generation) -> None:
        """Nobody wants the rest of an answer: its pages are free when the step under way is over."""
        for key in [key for key in self._coming if self._open[key][1] is generation]:
            del self._coming[key], self._open[key]
        for sequence in [*self.scheduler.running, *self.scheduler.waiting]:
            if self._open[sequence.key][1] is generation:
                self._left.append(sequence)
        self._cut()

    def extend(self, seconds: float) -> None:
        """Makes the step under way take so much longer: a call is sent again."""
        if self._run is not None and not self.blocked:
            self._cut()
            self._run.ends_at += seconds
            self._set_timer()

    def stop(self) -> None:
        """Its process does not go on until `go_on`."""
        self.life.stop()
        self.block("stopped")

    def go_on(self) -> None:
        self.life.go_on()
        self.resume("stopped")

    def received_at(self, since: float) -> float:
        """When a run that has begun since then has given its last tokens; -inf if there is none that goes on."""
        run = self._run
        return run.whole_until(self._loop.time()) if run is not None and run.began >= since else -math.inf

    def block(self, hold: Hold) -> None:
        """Stops the step under way until `resume`."""
        if self.blocked:
            self._holds.add(hold)
            return
        if self._run is not None:
            self._cut()
        self._holds.add(hold)
        if self._run is not None and self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._run.left_s = max(0.0, self._run.ends_at - self._loop.time())

    def resume(self, hold: Hold) -> None:
        """The step under way goes on, if nothing else holds it."""
        if hold in self._holds:
            self._holds.remove(hold)
            if self.blocked or not self.life.alive:
                return
            if self._run is not None:
                self._run.ends_at = self._loop.time() + self._run.left_s
                self._set_timer()
            else:
                self._begin()

    def die(self, *, silent: bool) -> None:
        """Computes no more."""
        self.life.die(silent=silent)
        self._stop()

    def hand_back(self, why: str, handover: Handover | None = None) -> None:
        """Ends all sequences: their routers go on elsewhere, with the pages that the handover keeps."""
        self._stop()
        for sequence in [*self.scheduler.running, *self.scheduler.waiting]:
            source, (future, generation) = None, self._open[sequence.key]
            if handover is not None and sequence.cached >= self._d.page_size and not future.done():
                source = Source(handover, sequence.cached)
                handover.wanted.add(generation.number)
            self.scheduler.remove(sequence)
            self._close(sequence.key, Handed(why, source))
        for key in list(self._coming):
            del self._coming[key]
            self._close(key, Handed(why))
        self._owed = 0

    def _stop(self) -> None:
        """Drops the step under way; the steps before it count."""
        if self._timer is not None:
            self._timer.cancel()
        if self._run is not None:
            if self.blocked:
                self._run.keep(self._run.steps - 1)
            else:
                self._run.end_early(self._loop.time())
            self._take(self._run)
        self._run = self._timer = None
        self.rows = 0

    def _take_whole(self) -> None:
        """Takes what whole steps have given, so that the step under way is a run of its own."""
        self._cut()
        if self._run is not None and self._run.steps > 1:
            whole, self._run = self._run, self._run.split()
            self._take(whole)

    def changed(self) -> None:
        """The pool of experts has changed: the next step takes another time."""
        self._cut()

    def _cut(self) -> None:
        """Ends the run after the step that is under way; begins one if there is none."""
        if not self.life.alive or self.blocked:
            if self._run is None and self.blocked and self.life.alive:
                self._begin()
            return
        if self._run is None:
            self._begin()
        elif self._run.cut(self._loop.time()):
            self._set_timer()

    def _set_timer(self) -> None:
        assert self._run is not None
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(self._run.ends_at, self._ended)

    def _begin(self, sequences: list[Sequence] | None = None) -> None:
        """Begins the next run: of `sequences`, that are known to be the next step's decodes, or as it is scheduled."""
        if self._left:
            self._remove_left()
            sequences = None
        if sequences is None:
            chunks = self.scheduler.schedule()
            self._owed = 0
            if not chunks:
                self.rows = 0
                return
        else:
            chunks = [Chunk(sequence, sequence.cached, 1) for sequence in sequences]
        self._start(chunks)

    def _remove_left(self) -> None:
        for sequence in self._left:
            if self._open.pop(sequence.key, None) is not None:
                self.scheduler.remove(sequence)
        self._left.clear()
        self._given_up.clear()

    def _start(self, chunks: list[Chunk]) -> None:
        decodes = [c for c in chunks if c.length == 1 and c.samples]
        prompts = [c for c in chunks if not (c.length == 1 and c.samples)]
        keys = sum(c.start for c in decodes) + len(decodes)
        prompt = sum((c.work for c in prompts), Work())
        work = StepWork(len(decodes), prompt.tokens, keys, float(prompt.prompt_keys + prompt.decode_keys))
        first_s = self._times.seconds(work)
        self._run = Run(chunks, decodes, prompts, work, self._loop.time(), first_s, self._times.served_s)
        alike = self._skip and not prompts
        steps = steps_alike(self.scheduler, decodes, self._owed, self._d.slowdown) if alike else 1
        if steps > 1:
            last = StepWork(len(decodes), 0, keys + (steps - 1.0) * len(decodes), 0.0)
            self._run.repeat(steps, self._times.seconds(last))
        self.rows = work.decodes + work.prompt_rows
        if self.blocked:
            self._run.cut(self._loop.time())
            self._run.left_s = self._run.ends_at - self._loop.time()
        else:
            self._set_timer()

    def _ended(self) -> None:
        run, self._run, self._timer = self._run, None, None
        assert run is not None
        finished, running = self._take(run), self.scheduler.running
        known = self._skip and not run.prompts and not self.scheduler.waiting
        if (
            known
            and len(run.decodes) - finished == len(running) > 0
            and not contended(self.scheduler, self._d.slowdown)
        ):
            pages = self.scheduler.pages
            if (pages.available - len(running)) * self._d.page_size - self._owed >= 2 * len(running):
                self._begin(running)
                return
        self._begin()

    def _take(self, run: Run) -> int:
        """Takes what the run's whole steps have given; returns how many sequences have ended."""
        steps, scheduler = run.steps, self.scheduler
        if not steps:
            return 0
        self.steps += steps
        self.served_s += steps * run.served_s
        self.total_rows += steps * (run.work.decodes + run.work.prompt_rows)
        learn(scheduler.cost, run)
        ended: list[Sequence] = []
        given: list[Generation] = []
        self._owed += steps * sum(chunk.sequence.names is None for chunk in run.decodes)
        for chunk in run.chunks:
            sequence, samples = chunk.sequence, chunk.samples
            tokens = steps if not run.prompts else chunk.length
            if samples:
                sequence.ids.extend(repeat(0, steps))
                if sequence.key not in self._given_up:
                    given.append(self._open[sequence.key][1])
            if sequence.names is not None and sequence.row is not None:  # a page has to be there to get its name
                grown = scheduler.pages.grow(sequence.row, sequence.cached + tokens)
                assert grown, "a run has no more steps than there are pages for"
            scheduler.computed(sequence, tokens)
            if samples and len(sequence.ids) >= sequence.max_length:
                ended.append(sequence)
        self._on_run(run, given)
        for sequence in ended:
            scheduler.remove(sequence)
            self._close(sequence.key)
        return len(ended)

    def _close(self, key: int, error: Handed | None = None) -> None:
        """Ends an attempt, unless nobody waits for it any more."""
        future, _ = self._open.pop(key)
        if not future.done():
            if error is None:
                future.set_result(None)
            else:
                future.set_exception(error)
