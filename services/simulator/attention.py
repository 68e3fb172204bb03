"""One attention worker: the engine's own scheduler and pages, with a step's time from the planner.

While a step can only be followed by the same decodes, one token on, many steps are one event: nobody waits or
has a prompt left, pages are free for all of them, and no caller has more than others. Whatever else happens ends the
run after the step that is under way.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import repeat

from services.attention_worker.engine.pages import PagePool
from services.attention_worker.engine.scheduler import Scheduler
from services.attention_worker.engine.sequence import Request, Sequence
from services.attention_worker.engine.step_cost import Work
from services.attention_worker.engine.step_plan import Chunk
from services.prefixes.page_names import PageNames, root_name
from services.router.requests.worker_choice import AttentionWorkerView
from services.simulator.deployment import Deployment
from services.simulator.generation import Generation
from services.simulator.run_of_steps import Run
from services.simulator.step_time import StepTimes, StepWork

MOST_STEPS = 256  # of a run
MOST_LEARNT, LEARNT = 16, 0.02  # of a run, the model of a step's cost sees so many steps, until it is as near


class Handed(Exception):
    """The worker has given a sequence up. `why`: lost, draining or unavailable."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


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
        longest = deployment.pages * deployment.page_size
        pages = PagePool(deployment.pages, deployment.page_size, deployment.max_running, min(longest, 1 << 17))
        self.scheduler = Scheduler(
            pages,
            deployment.max_batch_tokens,
            deployment.max_running,
            deployment.max_itl_s,
            slowdown=deployment.slowdown,
        )
        self._skip = skip
        self._open: dict[int, tuple[asyncio.Future[None], Generation]] = {}
        self._left: list[Sequence] = []
        self._run: Run | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._keys = 0
        self._owed = 0  # tokens of decodes that have no page yet
        self.alive, self.draining = True, False
        self.silent = False  # its machine is gone, and nobody has noticed
        self.blocked = False  # waits for experts that nobody has
        self.rows = 0  # of the step under way
        self.steps = self.total_rows = 0
        self.served_s = 0.0  # for which its steps have kept expert workers busy

    @property
    def reachable(self) -> bool:
        """Whether a router can begin an attempt there; at a silent one it gets no answer."""
        return (self.alive or self.silent) and not self.draining

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
            draining=self.draining,
            load=len(scheduler.running) + len(scheduler.waiting),
            kv_usage=scheduler.pages.used / scheduler.pages.total,
        )

    def submit(self, generation: Generation, request: Request) -> asyncio.Future[None]:
        """Begins an attempt; the future is done when the answer is whole, and raises Handed if it is not to be.

        Raises CannotFit.
        """
        longest = generation.prompt + generation.answer
        self.scheduler.check_fits(longest)
        future = self._loop.create_future()
        self._keys += 1
        shares = self._d.prefix_cache and generation.conversation is not None
        names = PageNames(root_name("", self._d.page_size), self._d.page_size) if shares else None
        sequence = Sequence(self._keys, request, frozenset(), longest, lambda *_: None, names=names)
        self._open[sequence.key] = future, generation
        self.scheduler.submit(sequence)
        self._cut()
        return future

    def leave(self, generation: Generation) -> None:
        """Nobody wants the rest of an answer: its pages are free when the step under way is over."""
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

    def block(self) -> None:
        """Stops the step under way until `resume`."""
        if self.blocked:
            return
        if self._run is not None:
            self._cut()
        self.blocked = True
        if self._run is not None and self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._run.left_s = max(0.0, self._run.ends_at - self._loop.time())

    def resume(self) -> None:
        """The step under way goes on."""
        if self.blocked:
            self.blocked = False
            if self._run is not None:
                self._run.ends_at = self._loop.time() + self._run.left_s
                self._set_timer()
            else:
                self._begin()

    def die(self, *, silent: bool) -> None:
        """Computes no more."""
        self.alive, self.silent = False, silent
        self._stop()

    def hand_back(self, why: str) -> None:
        """Ends all sequences: their routers go on elsewhere."""
        self._stop()
        for sequence in [*self.scheduler.running, *self.scheduler.waiting]:
            self.scheduler.remove(sequence)
            self._close(sequence.key, Handed(why))
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

    def changed(self) -> None:
        """The pool of experts has changed: the next step takes another time."""
        self._cut()

    def _cut(self) -> None:
        """Ends the run after the step that is under way; begins one if there is none."""
        if not self.alive or self.blocked:
            if self._run is None and self.blocked and self.alive:
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

    def _start(self, chunks: list[Chunk]) -> None:
        decodes = [c for c in chunks if c.length == 1 and c.samples]
        prompts = [c for c in chunks if not (c.length == 1 and c.samples)]
        keys = sum(c.start for c in decodes) + len(decodes)
        prompt = sum((c.work for c in prompts), Work())
        work = StepWork(len(decodes), prompt.tokens, keys, float(prompt.prompt_keys + prompt.decode_keys))
        first_s = self._times.seconds(work)
        self._run = Run(chunks, decodes, prompts, work, self._loop.time(), first_s, self._times.served_s)
        steps = self._steps_alike(decodes) if not prompts else 1
        if steps > 1:
            last = StepWork(len(decodes), 0, keys + (steps - 1.0) * len(decodes), 0.0)
            self._run.repeat(steps, self._times.seconds(last))
        self.rows = work.decodes + work.prompt_rows
        if self.blocked:
            self._run.cut(self._loop.time())
            self._run.left_s = self._run.ends_at - self._loop.time()
        else:
            self._set_timer()

    def _steps_alike(self, decodes: list[Chunk]) -> int:
        """How many steps are sure to have the same decodes."""
        scheduler = self.scheduler
        if not self._skip or scheduler.waiting or len(decodes) < len(scheduler.running) or self._contended():
            return 1
        pages, size = scheduler.pages, self._d.page_size
        room = (pages.available - len(decodes)) * size - self._owed
        left = min(c.sequence.max_length - len(c.sequence.ids) for c in decodes)
        return max(1, min(left, MOST_STEPS, room // len(decodes)))

    def _contended(self) -> bool:
        """Whether one caller has more than another: then sequences may take turns."""
        fair = self.scheduler.fair
        if not fair.several or self._d.slowdown == float("inf"):
            return False
        shares = {fair.share(sequence) for sequence in self.scheduler.running}
        return len(shares) > 1

    def _ended(self) -> None:
        run, self._run, self._timer = self._run, None, None
        assert run is not None
        finished = self._take(run)
        known = finished >= 0 and self._skip and not run.prompts and not self.scheduler.waiting
        if known and len(run.decodes) - finished == len(self.scheduler.running) > 0 and not self._contended():
            running = self.scheduler.running
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
        self._learn(run)
        ended: list[Sequence] = []
        given: list[Generation] = []
        self._owed += steps * sum(chunk.sequence.names is None for chunk in run.decodes)
        for chunk in run.chunks:
            sequence, samples = chunk.sequence, chunk.samples
            tokens = steps if not run.prompts else chunk.length
            if samples:
                sequence.ids.extend(repeat(0, steps))
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

    def _learn(self, run: Run) -> None:
        """Lets the scheduler's model learn from the run's steps, as far as these still teach it anything."""
        work, cost = run.work, self.scheduler.cost
        seen = Work(work.decodes + work.prompt_rows, int(work.decode_keys), int(work.prompt_keys))
        for _ in range(min(run.steps, MOST_LEARNT)):
            cost.observe(seen, run.first_s)
            if abs(cost.predict(seen) / run.first_s - 1) < LEARNT:
                return
