"""The engine: one thread that turns waiting requests into tokens, a step at a time.

One `step` runs the commands in the inbox, schedules, runs the model and delivers tokens. The thread owns every
sequence; other threads only put commands in its inbox. How tokens travel to clients is left to `deliver`.
Legend: T tokens of a step, S sequences that get a token in it, B rows of logits: theirs, then those that score prompts,
V vocabulary.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from typing import Literal, Protocol

import structlog
import torch
from torch import Tensor

from services.attention_worker.engine.answers import Answer, draw_answers
from services.attention_worker.engine.counters import Counters
from services.attention_worker.engine.delivery import Deliver, Delivery, deliver_here
from services.attention_worker.engine.drafting import Drafter
from services.attention_worker.engine.inputs import StepInputs
from services.attention_worker.engine.kv_cache import KvCache
from services.attention_worker.engine.layer_checksums import LayerChecksums
from services.attention_worker.engine.page_exchange import PageExchange
from services.attention_worker.engine.prompt_scores import score
from services.attention_worker.engine.sampler import NonFiniteLogits
from services.attention_worker.engine.scheduler import Scheduler
from services.attention_worker.engine.sequence import Emit, Ending, Request, Sequence, TokenOut
from services.attention_worker.engine.step_cost import Work
from services.attention_worker.engine.step_plan import Chunk
from services.attention_worker.engine.step_span import step_span
from services.attention_worker.engine.token_rules import TokenRules
from services.attention_worker.model.interfaces import DispatcherLike
from services.attention_worker.model.step import Step
from services.checkpoint.ngram import NgramConfig
from services.prefixes.page_names import PageNames, root_name
from services.router.dispatch.errors import WorkerUnavailable

log = structlog.get_logger(__name__)

IDLE_TICK_S = 0.5  # how often an idle engine counts progress
PROMPT_TICK_S = 1.0  # how often a delivery without tokens says that a prompt goes on


Scored = tuple[Sequence, list[TokenOut], Ending | None]


class EngineStopped(RuntimeError):
    """The engine takes no more requests."""


class CopiesFailed(RuntimeError):
    """A step's pages could not be copied to host memory or from there."""


class ModelLike(Protocol):
    """What the engine needs of a model; the dispatcher is only passed through."""

    @property
    def ngram(self) -> NgramConfig | None:
        """What of the ids before a token its embedding takes in."""
        ...

    @property
    def drafts(self) -> bool:
        """Whether it can guess tokens ahead: then `draft` may be called after each `forward`."""
        ...

    def new_cache(self, num_pages: int, page_size: int) -> list[Tensor]: ...

    def forward(self, step: Step, caches: list[Tensor], dispatcher: DispatcherLike) -> Tensor: ...

    def draft(self, step: Step, rows_T: Tensor, caches: list[Tensor]) -> Tensor: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineLimits:
    """The sizes of an engine.

    `max_model_len` counts prompt and generated tokens; `max_itl_s`, `max_scores` and `slowdown` are the scheduler's;
    `drafts` is the most tokens that are drafted of a sequence in a step.
    """

    num_pages: int
    page_size: int
    max_batch_tokens: int
    max_running: int
    max_model_len: int
    max_itl_s: float = math.inf
    max_scores: int = 256
    slowdown: float = math.inf
    drafts: int = 0
    prefix_cache: bool = True
    host_pages: int = 0  # of the second tier


class Engine:
    """Continuous batching over one model. Every accepted request gets exactly one ending."""

    def __init__(
        self,
        model: ModelLike,
        dispatcher: DispatcherLike,
        limits: EngineLimits,
        eos_ids: frozenset[int],
        *,
        numerics_class: str = "",
        deliver: Deliver = deliver_here,
        between_steps: Callable[[], float] = lambda: IDLE_TICK_S,
    ) -> None:
        """`between_steps`: called between two steps; it returns in how many seconds it is to be called if none runs."""
        self.limits = limits
        self._numerics_class = numerics_class
        self.counters = Counters()
        self.cache = KvCache(
            model, limits.num_pages, limits.page_size, limits.max_running, limits.max_model_len, limits.host_pages
        )
        if limits.prefix_cache:
            self.cache.check_pages(draft=model.drafts)
        self.scheduler = Scheduler(
            self.cache.pages,
            limits.max_batch_tokens,
            limits.max_running,
            limits.max_itl_s,
            limits.max_scores,
            limits.slowdown,
        )
        self._model, self._dispatcher, self._eos_ids = model, dispatcher, eos_ids
        self._deliver, self._between_steps = deliver, between_steps
        self._inputs = StepInputs(self.cache, limits.max_batch_tokens, model.ngram)
        self.drafter: Drafter | None = None
        if model.drafts and limits.drafts:
            self.drafter = Drafter(model, self.cache, self._inputs.arrays, self.scheduler, limits.drafts)
        self._sequences: dict[int, Sequence] = {}
        self._observed = 0  # how many of them ask for checksums of layers
        self._keys = count()
        self._inbox: deque[Callable[[], list[Delivery]]] = deque()
        self._wake = threading.Condition()
        self._stopping = False
        self.exchange = PageExchange(self.cache, self._put)

    @property
    def busy(self) -> bool:
        """Whether any accepted request has not ended."""
        return bool(self._sequences or self._inbox)

    def check_fits(self, request: Request) -> int:
        """Returns the most tokens that the request's sequence may have.

        Raises CannotFit when it could not finish even alone.
        """
        asked, prompt = request.sampling, len(request.prompt_ids)
        most = min(prompt + asked.max_tokens if asked.max_tokens else 2**31, self.limits.max_model_len)
        max_length = prompt if asked.prompt_only else most
        self.scheduler.check_fits(max(max_length, prompt + 1))  # it is admitted with the page of a next token
        return max_length

    def submit(self, request: Request, emit: Emit, rules: TokenRules | None = None) -> int:
        """Queues a request, from any thread; returns the key to cancel it by. The rules have taken its emitted ids.

        Raises CannotFit when the request could not finish even alone, EngineStopped after `stop`.
        """
        asked, max_length = request.sampling, self.check_fits(request)
        stop_ids = asked.stop_ids if asked.ignore_eos else asked.stop_ids | self._eos_ids
        sequence = Sequence(next(self._keys), request, stop_ids, max_length, emit, rules, self.names(request))
        if not self._put(partial(self._accept, sequence)):
            raise EngineStopped("the worker is stopping")
        return sequence.key

    def names(self, request: Request) -> PageNames | None:
        """The names of a request's pages; None where no pages are shared, and for probes, which are to compute."""
        if not self.limits.prefix_cache or request.layer_checksums or request.probe:
            return None
        size = self.limits.page_size
        names = PageNames(root_name(self._numerics_class, size, request.salt), size)
        names.of(request.prompt_ids, len(request.prompt_ids))  # here, and not in a step
        return names

    def cancel(self, key: int) -> None:
        """Ends a sequence, from any thread; its pages are free before the next step. Does nothing if it has ended."""
        self._put(partial(self._cancel, key))

    def evict(self, message: str) -> None:
        """Ends every sequence as `unavailable`, from any thread, so that the router continues it on another worker."""
        self._put(partial(self.exchange.hand_over, self.scheduler.running))
        self._put(partial(self._end_all, Ending("unavailable", message=message)))

    def stop(self) -> None:
        """Makes `run` return after the current step; sequences that are left end as `unavailable`."""
        with self._wake:
            self._stopping = True
            self._wake.notify()

    def run(self) -> None:
        """Runs steps until `stop`; sleeps while there is nothing to run."""
        while not self._stopping:
            worked = self.step()
            self.counters.progress += 1
            wait_s = min(IDLE_TICK_S, self._between_steps())
            if not worked:
                with self._wake:
                    self._wake.wait_for(lambda: self._inbox or self._stopping, wait_s)
        self._deliver(self._receive() + self._end_all(Ending("unavailable", message="the worker is stopping")))

    @torch.inference_mode()
    def step(self) -> bool:
        """Runs the inbox's commands, then one model step, and delivers. False when there was nothing to run."""
        deliveries = self._receive()
        chunks = self.scheduler.schedule()
        if chunks or self.cache.pages.host.receiving:
            with step_span(self.counters.steps + 1, chunks):
                self._run(chunks, deliveries)
        elif deliveries:
            self._deliver(deliveries)
        return bool(chunks)

    def _receive(self) -> list[Delivery]:
        deliveries: list[Delivery] = []
        while self._inbox:
            deliveries += self._inbox.popleft()()
        return deliveries

    def _run(self, chunks: list[Chunk], deliveries: list[Delivery]) -> None:
        """Runs a step, delivers what came before it and what it gave, and drafts for the next one."""
        started, work = time.perf_counter(), sum((chunk.work for chunk in chunks), Work())
        sampling = [chunk for chunk in chunks if chunk.samples]
        prompts = [chunk for chunk in chunks if not chunk.samples] if len(sampling) < len(chunks) else []
        rows = sum(1 + chunk.drafts for chunk in sampling)
        self.counters.steps += 1
        self.counters.step_s = self.scheduler.cost.at_most(work)
        layers = LayerChecksums(chunks) if self._observed else None
        try:
            for chunk in sampling:
                if chunk.sequence.rules is not None:
                    chunk.sequence.rules.begin()
            step = self._inputs_of(chunks)  # from here to `forward` nothing may fail: all ranks make the step's copies
            step = step if layers is None else replace(step, observe=layers.take)
            logits_BV = self._model.forward(step, self.cache.tensors, self._dispatcher)
            scores = self._scores(logits_BV[rows:], chunks) if len(logits_BV) > rows else []
            answers = draw_answers(logits_BV, sampling)
            kept = {answer.chunk.sequence.key: answer.kept for answer in answers}
            passed = list(layers.tokens(kept)) if layers is not None else []
        except CopiesFailed as error:
            self._deliver(deliveries + self._fail(list(self.scheduler.running), error))
            return
        except Exception as error:  # noqa: BLE001 - the engine's thread must outlive any step
            self._deliver(deliveries + self._fail([chunk.sequence for chunk in chunks], error))
            return
        for chunk in chunks:
            self.scheduler.computed(chunk.sequence, kept.get(chunk.sequence.key, chunk.length))
        self.counters.model_tokens += len(step.ids_T)
        deliveries += self._prompt_ticks(prompts) + [(chunk.sequence.emit, each, None) for chunk, each in passed]
        deliveries += [self._take_tokens(*scored) for scored in scores]
        deliveries += [self._take(answer) for answer in answers if answer.chunk.sequence.key in self._sequences]
        self._deliver(deliveries)
        if self.drafter is not None:  # while clients get their tokens
            self.drafter.verified(answers)
            self.drafter.draft(chunks, kept)
        # Neither one that is observed or has copies, nor one that samples nothing, with which a GPU may still be busy.
        if chunks and layers is None and not len(step.received_RB) and (sampling or not logits_BV.is_cuda):
            self.scheduler.cost.observe(work, time.perf_counter() - started)

    def _inputs_of(self, chunks: list[Chunk]) -> Step:
        """The model's input, after the copies from and to host memory that it needs.

        Without these it is not known which pages hold what their names say, so nothing that runs can go on.
        """
        try:
            step = self._inputs.build(self.counters.steps, chunks)
            self.cache.host.copy(step.moves_M3, step.received_RB)
        except Exception as error:
            self.cache.pages.forget_all()
            raise CopiesFailed(str(error)) from error
        return step

    def _prompt_ticks(self, prompts: list[Chunk]) -> list[Delivery]:
        now = time.monotonic()
        going_on = [chunk.sequence for chunk in prompts if chunk.sequence.ticked_at < now - PROMPT_TICK_S]
        for sequence in going_on:
            sequence.ticked_at = now
        return [(sequence.emit, [], None) for sequence in going_on]

    @staticmethod
    def _scores(logits_RV: Tensor, chunks: list[Chunk]) -> list[Scored]:
        """The scores of the prompts, each with the ending of a sequence that gets no answer."""
        found: list[Scored] = []
        for chunk, scores in score(logits_RV, chunks):
            if isinstance(scores, NonFiniteLogits):
                found.append((chunk.sequence, [], Ending("failed", message=str(scores))))
            else:
                chunk.sequence.scored = scores[-1].index + 1
                found.append((chunk.sequence, scores, chunk.sequence.ending))
        return found

    def _take(self, answer: Answer) -> Delivery:
        if not answer.chunk.sequence.request.probe:
            self.counters.generation_tokens += len(answer.tokens)
        return self._take_tokens(answer.chunk.sequence, answer.tokens, answer.ending)

    def _take_tokens(self, sequence: Sequence, tokens: list[TokenOut], ending: Ending | None) -> Delivery:
        if ending is None:
            return sequence.emit, tokens, None
        if ending.reason == "failed":
            self.scheduler.forget(sequence)
        return self._end(sequence, tokens, ending)

    def _fail(self, sequences: list[Sequence], error: Exception) -> list[Delivery]:
        self.counters.failed_steps += 1
        requests = [sequence.request.request_id for sequence in sequences]
        log.error("a step failed", sequences=len(sequences), requests=requests, exc_info=error)
        reason: Literal["unavailable", "failed"] = "unavailable" if isinstance(error, WorkerUnavailable) else "failed"
        return [self._end(sequence, [], Ending(reason, message=str(error))) for sequence in sequences]

    def _accept(self, sequence: Sequence) -> list[Delivery]:
        self._sequences[sequence.key] = sequence
        self._observed += sequence.request.layer_checksums
        self.scheduler.submit(sequence)
        if not sequence.request.probe:
            self.counters.prompt_tokens += len(sequence.request.prompt_ids)
        # A replay may be complete already: the earlier attempt died between its last token and its ending.
        return [self._end(sequence, [], sequence.ending)] if sequence.ending else []

    def _cancel(self, key: int) -> list[Delivery]:
        sequence = self._sequences.get(key)
        return [self._end(sequence, [], Ending("cancelled"))] if sequence else []

    def _end_all(self, ending: Ending) -> list[Delivery]:
        return [self._end(sequence, [], ending) for sequence in list(self._sequences.values())]

    def _end(self, sequence: Sequence, tokens: list[TokenOut], ending: Ending) -> Delivery:
        del self._sequences[sequence.key]
        self._observed -= sequence.request.layer_checksums
        self.scheduler.remove(sequence)
        return sequence.emit, tokens, ending

    def _put(self, command: Callable[[], list[Delivery]]) -> bool:
        """Puts a command into the inbox; False when the engine has stopped and will not run it."""
        with self._wake:
            if not self._stopping:
                self._inbox.append(command)
                self._wake.notify()
            return not self._stopping
