"""How many steps of a worker are sure to be alike, so that they can be one event. Pure."""

from __future__ import annotations

from collections.abc import Sequence as Several

from services.attention_worker.engine.scheduler import Scheduler
from services.attention_worker.engine.step_cost import StepCost, Work
from services.attention_worker.engine.step_plan import Chunk
from services.simulator.run_of_steps import Run

MOST_STEPS = 256  # of a run
MOST_LEARNT, LEARNT = 16, 0.02  # of a run, the model of a step's cost sees so many steps, until it is as near


def steps_alike(scheduler: Scheduler, decodes: Several[Chunk], owed: int, slowdown: float) -> int:
    """How many steps have these decodes, from one that has them alone. `owed`: tokens that have no page yet."""
    if scheduler.waiting or len(decodes) < len(scheduler.running) or contended(scheduler, slowdown):
        return 1
    pages = scheduler.pages
    room = (pages.available - len(decodes)) * pages.page_size - owed
    left = min(c.sequence.max_length - len(c.sequence.ids) for c in decodes)
    return max(1, min(left, MOST_STEPS, room // len(decodes)))


def contended(scheduler: Scheduler, slowdown: float) -> bool:
    """Whether one caller has more than another: then sequences may take turns."""
    fair = scheduler.fair
    if not fair.several or slowdown == float("inf"):
        return False
    return len({fair.share(sequence) for sequence in scheduler.running}) > 1


def learn(cost: StepCost, run: Run) -> None:
    """Lets the scheduler's model learn from the run's steps, as far as these still teach it anything."""
    work = run.work
    seen = Work(work.decodes + work.prompt_rows, int(work.decode_keys), int(work.prompt_keys))
    for _ in range(min(run.steps, MOST_LEARNT)):
        cost.observe(seen, run.first_s)
        if abs(cost.predict(seen) / run.first_s - 1) < LEARNT:
            return
