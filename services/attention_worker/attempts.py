"""Attempts of callers at the engine: checked and submitted, their tokens and endings as messages."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from itertools import count

import grpc
import structlog
from caracal_proto import attention_pb2

from services.attention_worker.engine.engine import Engine, EngineStopped
from services.attention_worker.engine.scheduler import CannotFit
from services.attention_worker.engine.sequence import Emit, Ending, Request, TokenOut
from services.attention_worker.engine.token_rules import Grammar, NothingAllowed, TokenRules
from services.attention_worker.grammar_trial import NotCompiledInTime
from services.attention_worker.grammars import BadGrammar, GrammarCompiler
from services.attention_worker.migration.page_fetcher import PageFetcher
from services.attention_worker.recent_answers import RecentAnswers
from services.attention_worker.request_validation import BadRequest, parse
from services.attention_worker.sequence_span import begin_sequence

log = structlog.get_logger(__name__)

MOST_COMPILING = 256  # attempts that wait for their grammars
STANDS_STILL = "the engine stands still"  # the message of attempts that go elsewhere for it
NOT_BEGUN = "the engine stands still, nothing has begun"  # and of those that it has never had: they are not the reason
BUSY = "busy: "  # how the message of a rejection begins that holds only for now
TOKENS_PER_CACHED = 16  # tokens that open attempts may come to, for each that the cache holds
MIN_TOKENS = 1 << 20  # however small the cache is
DIRECT_SHARE, MIN_DIRECT = 16, 4  # of the sequences that run at once, one of so many may be a call of its own
_CODES = {
    "unavailable": grpc.StatusCode.UNAVAILABLE,
    "failed": grpc.StatusCode.INTERNAL,
    "cancelled": grpc.StatusCode.CANCELLED,
    "rejected": grpc.StatusCode.INVALID_ARGUMENT,
}


class Rejected(Exception):
    """An attempt that does not begin, with the gRPC status that says why."""

    def __init__(self, code: grpc.StatusCode, details: object) -> None:
        super().__init__(str(details))
        self.code = code


class Attempts:
    """Attempts at one engine, from any number of streams. Used on one event loop.

    Only as many are taken as run at once, and as many again that wait. Routers know `places` and queue by themselves;
    these bounds are for the moments in which several routers, or a failover, bring more.
    """

    def __init__(
        self, engine: Engine, vocab_size: int, grammars: GrammarCompiler, fetcher: PageFetcher | None = None
    ) -> None:
        """`fetcher`: of pages that another worker has; without one, all are computed."""
        self._fetcher, self._fetching = fetcher, dict[int, asyncio.Task[None]]()
        self._engine = engine
        self._vocab_size = vocab_size
        self._grammars = grammars
        self._keys = count(1)
        self._recent = RecentAnswers()
        self._running: dict[int, int | None] = {}  # keys of the engine; None while a grammar is compiled
        self._emits: dict[int, Emit] = {}
        self.stands_still = False  # the engine's thread does not go on
        self._cancelled_since: list[int] = []  # keys of the engine, which it is to cancel when it goes on
        self._tokens: dict[int, int] = {}  # of prompts and replayed answers, by key, and in all
        self._all_tokens = 0
        limits = engine.limits
        self._direct: set[int] = set()
        self._most_direct = min(max(MIN_DIRECT, limits.max_running // DIRECT_SHARE), -(-limits.max_running // 2))
        self._most_tokens = max(MIN_TOKENS, TOKENS_PER_CACHED * limits.num_pages * limits.page_size)
        self.busy_rejections = 0
        self._compiling: dict[int, Future[TokenRules | None]] = {}
        self.draining = False  # takes no more attempts
        self._moving = False  # hands those that are not with the engine yet back, too

    @property
    def preparing(self) -> int:
        """How many attempts wait for their grammar, or for pages of another worker."""
        return len(self._compiling) + len(self._fetching)

    def move(self) -> None:
        """Ends all attempts, so that the router continues them elsewhere."""
        self.draining = self._moving = True
        self._engine.evict("draining")
        for fetching in self._fetching.values():
            fetching.cancel()

    def stand_still(self) -> None:
        """Ends all attempts, so that routers continue them elsewhere, and takes none until `go_on`.

        Nothing is asked of the engine meanwhile: its thread may hold any lock.
        """
        self.stands_still = True
        for key, emit in list(self._emits.items()):
            running = self._running.get(key)
            emit([], Ending("unavailable", message=NOT_BEGUN if running is None else STANDS_STILL))
            if running is not None:
                self._cancelled_since.append(running)

    def go_on(self) -> None:
        """The engine goes on; what it still has of attempts that have ended is cancelled."""
        self.stands_still = False
        cancelled, self._cancelled_since = self._cancelled_since, []
        for running in cancelled:
            self._engine.cancel(running)

    @property
    def places(self) -> int:
        """Sequences of routers that run at once."""
        return max(1, self._engine.limits.max_running - self._most_direct)

    def begin(self, request: attention_pb2.GenerateRequest, emit: Emit, *, direct: bool = False) -> int:
        """Submits a request; returns its key. `emit` is called with its tokens and its ending. Raises Rejected.

        `direct`: it is a call of its own, as routers make none; there may be a few of these.
        """
        if self.draining or self.stands_still:
            raise Rejected(grpc.StatusCode.UNAVAILABLE, "draining" if self.draining else NOT_BEGUN)
        self._check_room(len(request.prompt_ids) + len(request.emitted_ids), direct=direct)
        try:
            asked = parse(request, self._vocab_size, self._engine.limits.max_model_len)
            self._engine.check_fits(asked)
        except BadRequest as error:
            raise Rejected(grpc.StatusCode.INVALID_ARGUMENT, error) from None
        except CannotFit as error:
            raise Rejected(grpc.StatusCode.RESOURCE_EXHAUSTED, error) from None
        if asked.sampling.grammar and len(self._compiling) >= MOST_COMPILING:
            raise Rejected(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many grammars are being compiled")
        if request.resume_key:
            asked, emit = self._resume(request, asked, emit)
        key = next(self._keys)
        trace = begin_sequence(request, asked)
        if trace is not None:
            asked, emit = replace(asked, trace=trace), trace.watching(emit)

        def emit_here(tokens: list[TokenOut], ending: Ending | None) -> None:
            if ending is not None:
                self._forget(key)
            emit(tokens, ending)

        self._running[key], self._emits[key] = None, emit_here
        self._tokens[key] = len(asked.prompt_ids) + len(asked.emitted_ids)
        self._all_tokens += self._tokens[key]
        if direct:
            self._direct.add(key)
        if self._fetcher is not None and request.HasField("pages_at"):
            self._fetch(self._fetcher, key, asked, emit_here, request.pages_at)
        elif asked.sampling.grammar:
            self._compile(key, asked, emit_here)
        else:
            try:
                self._running[key] = self._engine.submit(asked, emit_here, _rules(asked))
            except EngineStopped as error:
                self._forget(key)
                if trace is not None:
                    trace.end(Ending("unavailable", message=str(error)))
                raise Rejected(grpc.StatusCode.UNAVAILABLE, error) from None
        return key

    def _resume(self, request: attention_pb2.GenerateRequest, asked: Request, emit: Emit) -> tuple[Request, Emit]:
        """The attempt from where this worker has come with the same answer before; what it has is emitted soon."""
        found = self._recent.find(request.resume_key, asked.emitted_ids, request.resume_known)
        unsent = list(found)

        def after_those(tokens: list[TokenOut], ending: Ending | None) -> None:
            tokens = unsent + tokens if unsent else tokens
            unsent.clear()
            emit(tokens, ending)

        keeping = self._recent.follow(request.resume_key, asked.emitted_ids, found, after_those)
        if not found:
            return asked, keeping
        asyncio.get_running_loop().call_soon(lambda: after_those([], None) if unsent else None)  # once it is open
        return replace(asked, emitted_ids=(*asked.emitted_ids, *(token.id for token in found))), keeping

    def cancel(self, key: int) -> None:
        """Frees a sequence's pages within one step; nothing when it has ended."""
        running = self._forget(key)
        if (compiling := self._compiling.pop(key, None)) is not None:
            compiling.cancel()
        if (fetching := self._fetching.get(key)) is not None:
            fetching.cancel()
        if running is not None and self.stands_still:
            self._cancelled_since.append(running)
        elif running is not None:
            self._engine.cancel(running)

    def _check_room(self, tokens: int, *, direct: bool) -> None:
        """Raises Rejected while there is none for a sequence of so many tokens."""
        if direct and len(self._direct) >= self._most_direct:
            why = f"{self._most_direct} calls of Generate are open; more go through a router"
        elif len(self._running) >= 2 * self._engine.limits.max_running:
            why = f"{len(self._running)} sequences are open"
        elif self._running and self._all_tokens + tokens > self._most_tokens:
            why = f"the open sequences have {self._all_tokens} tokens"
        else:
            return
        self.busy_rejections += 1
        raise Rejected(grpc.StatusCode.RESOURCE_EXHAUSTED, f"{BUSY}{why}")

    def _forget(self, key: int) -> int | None:
        """Returns the engine's key of an attempt that is open no more."""
        self._all_tokens -= self._tokens.pop(key, 0)
        self._direct.discard(key)
        self._emits.pop(key, None)
        return self._running.pop(key, None)

    def _fetch(
        self, fetcher: PageFetcher, key: int, asked: Request, emit: Emit, source: attention_pb2.PageSource
    ) -> None:
        """Submits the request once the pages are here that `source` had of it, or it is clear that they do not come."""

        def fetched(_: asyncio.Task[None]) -> None:
            del self._fetching[key]
            if asked.sampling.grammar and key in self._running and not self._moving:
                self._compile(key, asked, emit)
            else:
                self._submit(key, asked, emit, partial(_rules, asked))

        task = self._fetching[key] = asyncio.create_task(fetcher.fetch(asked, source, partial(emit, [], None)))
        task.add_done_callback(fetched)

    def _compile(self, key: int, asked: Request, emit: Emit) -> None:
        loop = asyncio.get_running_loop()
        ready = self._grammars.compile(asked.sampling.grammar, partial(_rules, asked), asked.caller)
        self._compiling[key] = ready
        # The loop may have ended when a long compilation does.
        ready.add_done_callback(
            lambda done: None if loop.is_closed() else loop.call_soon_threadsafe(self._compiled, key, asked, emit, done)
        )

    def _compiled(self, key: int, asked: Request, emit: Emit, ready: Future[TokenRules | None]) -> None:
        self._compiling.pop(key, None)
        self._submit(key, asked, emit, ready.result)

    def _submit(self, key: int, asked: Request, emit: Emit, rules: Callable[[], TokenRules | None]) -> None:
        """Submits an attempt that was not with the engine yet, unless it is over."""
        if key not in self._running:  # cancelled
            if asked.trace is not None:
                asked.trace.end(Ending("cancelled"))
            return
        try:
            if self._moving or self.stands_still:
                raise EngineStopped("draining" if self._moving else NOT_BEGUN)
            self._running[key] = self._engine.submit(asked, emit, rules())
        except BadGrammar as error:
            emit([], Ending("rejected", message=f"grammar: {error}"))
        except NothingAllowed as error:
            emit([], Ending("rejected", message=str(error)))
        except (EngineStopped, NotCompiledInTime) as error:
            emit([], Ending("unavailable", message=str(error)))
        except Exception as error:
            log.exception("a grammar cannot be compiled")
            emit([], Ending("failed", message=f"a grammar cannot be compiled: {type(error).__name__}"))


def _rules(asked: Request, grammar: Grammar | None = None) -> TokenRules | None:
    """The rules of a request, which have taken its emitted ids; None without any."""
    sampling = asked.sampling
    if grammar is None and not sampling.allowed_ids and not sampling.banned and sampling.reasoning is None:
        return None
    rules = TokenRules(sampling.allowed_ids, sampling.banned, sampling.reasoning, grammar)
    for token in asked.emitted_ids:
        rules.accept(token)
    return rules


def failure(ending: Ending | None) -> grpc.StatusCode | None:
    """The status of an attempt that failed; None for one that finished or goes on."""
    return _CODES.get(ending.reason) if ending else None


def fill(
    event: attention_pb2.GenerateEvent, attempt: int, tokens: Iterable[TokenOut], ending: Ending | None
) -> attention_pb2.GenerateEvent:
    """Writes tokens and the ending of an attempt that has not failed into an empty event; returns it."""
    event.attempt = attempt
    for token in tokens:
        if token.layers:
            event.layers.add(position=token.index, checksum=token.layers)
            continue
        if token.cached:
            event.cached_tokens = token.cached
        added = (event.prompt if token.rank else event.tokens).add(
            index=token.index,
            id=token.id,
            logits_checksum=token.logits_checksum,
            logprob=token.logprob,
            rank=token.rank,
            drafted=token.drafted,
            draft_place=token.draft_place,
        )
        for id, logprob in token.top:
            added.top.add(id=id, logprob=logprob)
    if ending is not None:
        event.finish_reason = ending.reason
        event.stop_id = ending.stop_id
    return event
