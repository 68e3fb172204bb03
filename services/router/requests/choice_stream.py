"""One choice of an answer: a generation, its text and its lifecycle, read as text deltas."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

from caracal_proto import attention_pb2

from services.checkpoint.vocabulary import Vocabulary
from services.router.recording.recorder import Recorder, Recording
from services.router.requests.admission import Admission, AdmissionLimits
from services.router.requests.assets import ModelAssets
from services.router.requests.attention_workers import AttentionWorkerPool
from services.router.requests.context_limit import ContextLimit
from services.router.requests.detokenizer import decoder_of
from services.router.requests.errors import RouterError
from services.router.requests.generation import Generation, GenerationRequest
from services.router.requests.lifecycle import RequestLifecycle, request_lifecycle
from services.router.requests.metrics import RequestMetrics
from services.router.requests.replay import Position, Replay, Resumed, TokenBatch
from services.router.requests.shadow_answers import ReadAnswer, ShadowAnswers
from services.router.requests.stops import StopStrings
from services.router.requests.text import Tag, TaggedText, TextFold
from services.router.requests.text_process import TextProcesses


@dataclass(frozen=True, slots=True, kw_only=True)
class TextRules:
    """How token ids become text."""

    stop: Sequence[str] = ()
    include_stop: bool = False
    skip_special_tokens: bool = True
    tags: Mapping[int, str] = field(default_factory=dict)  # ids that are never skipped and marked in the text


@dataclass(slots=True)  # frozen ones take twice as long to make, and there is one for each token
class TextDelta:
    """Text and tokens that came together; `finish_reason` is set on the last delta. `prompt`: scored tokens of it."""

    text: str
    tokens: Sequence[attention_pb2.Token]
    finish_reason: str | None = None
    tags: Sequence[Tag] = ()
    prompt: Sequence[attention_pb2.Token] = ()


class ChoiceStream:
    """Reads one generation as text. Use it as a context manager.

    However it is left, the worker's call is cancelled if it still runs, and the sequence ends exactly once.
    """

    def __init__(self, serving: ServingContext, request: GenerationRequest, rules: TextRules) -> None:
        self._serving = serving
        self._request = request
        self._rules = rules
        self._exit = ExitStack()
        vocabulary = serving.assets.vocabulary
        skipped = vocabulary.special_ids - rules.tags.keys() if rules.skip_special_tokens else frozenset()
        self._text = TextFold(
            decoder_of(vocabulary, skipped),
            StopStrings(rules.stop, include=rules.include_stop),
            min_tokens=request.sampling.min_tokens,
            checked=bool(rules.stop),
            tags=rules.tags,
        )
        self._diverted: Callable[[TextDelta], None] | None = None
        self._readers: list[Recording | ReadAnswer] = []
        self._replay: Replay | None = None
        self.stop_reason: str | int | None = None
        self.stopped_by_text = False  # a stop string has ended it, and not its worker
        self.reasoning_tokens = 0  # counted by the reader that separates reasoning from content

    def __enter__(self) -> ChoiceStream:
        self._lifecycle: RequestLifecycle = self._exit.enter_context(
            request_lifecycle(self._serving.metrics, len(self._request.prompt_ids))
        )
        self._generation = self._exit.enter_context(
            Generation(self._serving.attention_workers, self._serving.metrics, self._request)
        )
        if (resumed := self._request.resumed) is not None and resumed.position != Position():
            self._replay = Replay(resumed.position, self._generation.next_tokens)
        if (recorder := self._serving.recorder) is not None:
            asked = self._request
            self._readers.append(recorder.begin(asked.request_id, asked.prompt_ids, asked.sampling, self._rules.stop))
        if (shadow := self._serving.shadow) is not None and self._request.resumed is None:
            reader = shadow.begin(self._request.request_id, self._request.prompt_ids)
            self._readers += [reader] if reader is not None else []
        self._serving.add(self)
        self._exit.callback(self._serving.remove, self)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, *more: object) -> None:
        try:
            self._exit.__exit__(kind, error, *more)  # type: ignore[arg-type]
        finally:
            self._request.visit.generated(self._lifecycle.tokens)
            if self._readers and self._lifecycle.ending is not None:
                code = error.code if isinstance(error, RouterError) else RouterError.code
                ending = self._lifecycle.ending
                for reader in self._readers:
                    reader.end(self._generation, ending, code if ending == "error" else "")

    @property
    def vocabulary(self) -> Vocabulary:
        return self._serving.assets.vocabulary

    @property
    def prompt_ids(self) -> Sequence[int]:
        return self._request.prompt_ids

    @property
    def sampling(self) -> attention_pb2.Sampling:
        return self._request.sampling

    @property
    def prompt_tokens(self) -> int:
        return self._lifecycle.prompt_tokens

    @property
    def completion_tokens(self) -> int:
        return self._lifecycle.tokens

    @property
    def cached_tokens(self) -> int:
        """How many tokens of the prompt the worker had in its cache; 0 before the first token."""
        return self._generation.cached_tokens

    @property
    def resumed(self) -> Resumed | None:
        """What the client has already, of an answer that it may go on with."""
        return self._request.resumed

    @property
    def boot_id(self) -> str:
        """The run of the worker that computes it; empty before the first attempt."""
        return self._generation.boot_id

    @property
    def numerics_class(self) -> str:
        return self._generation.numerics_class or ""

    def abort(self, error: RouterError) -> None:
        """Ends the stream from outside with an error."""
        self._generation.abort(error)

    def divert(self, take: Callable[[TextDelta], None] | None) -> None:
        """Gives the next deltas to `take` as they arrive, until it is None, instead of to `next`.

        The last one still comes from there, and all of a request with stop strings, which end it.
        """
        self._diverted = take
        if not self._rules.stop and self._replay is None:
            self._generation.divert(self._take if take else None)

    def _take(self, tokens: Sequence[attention_pb2.Token]) -> None:
        for reader in self._readers:
            reader.tokens(tokens)
        text, _ = self._text.push([token.id for token in tokens])
        self._lifecycle.generated(len(tokens))
        assert self._diverted is not None
        self._diverted(TextDelta(text.text, tokens, tags=text.tags))

    async def next(self) -> TextDelta:
        """Returns the next delta. Raises RouterError."""
        batch = await self._next_batch()
        tokens = batch.tokens
        for reader in self._readers:
            reader.batch(tokens, batch.prompt, batch.finish_reason, batch.stop_id)
        ids = [token.id for token in tokens]
        hidden_stop = batch.stop_id is not None and not self._rules.include_stop
        text, used = self._text.push(ids[:-1] if hidden_stop and ids else ids)
        if self._text.hit is not None:
            self._lifecycle.generated(used)
            self.stop_reason, self.stopped_by_text = self._text.hit, True
            return self._last(text, tokens[:used], "stop", batch.prompt)
        if tokens:
            self._lifecycle.generated(len(tokens))
        if not batch.finish_reason:
            return TextDelta(text.text, tokens, tags=text.tags, prompt=batch.prompt)
        text += self._text.finish()
        if self._text.hit is not None:
            self.stop_reason = self._text.hit
        elif batch.stop_id is not None and batch.stop_id not in self._request.eos_ids:
            self.stop_reason = batch.stop_id
        return self._last(text, tokens, batch.finish_reason, batch.prompt)

    async def _next_batch(self) -> TokenBatch:
        if self._replay is None:
            return await self._generation.next_tokens()
        await asyncio.sleep(0)  # much may come at once
        batch = await self._replay.next()
        if self._replay.over:
            self._replay = None
        return batch

    def _last(
        self,
        text: TaggedText,
        tokens: Sequence[attention_pb2.Token],
        reason: str,
        prompt: Sequence[attention_pb2.Token] = (),
    ) -> TextDelta:
        self._lifecycle.finish(reason)
        return TextDelta(text.text, tokens, reason, text.tags, prompt)


class ServingContext:
    """What all streams share: the model's assets, the attention workers, the metrics. One per router process."""

    def __init__(
        self,
        assets: ModelAssets,
        attention_workers: AttentionWorkerPool,
        metrics: RequestMetrics,
        limits: AdmissionLimits = AdmissionLimits(),  # noqa: B008  frozen
        texts: TextProcesses | None = None,
    ) -> None:
        """`texts`: of the same model; by itself it makes its own."""
        self.assets = assets
        self.attention_workers = attention_workers
        self.metrics = metrics
        self.admission = Admission(
            lambda: attention_workers.capacity,
            metrics.admission,
            limits,
            cold_s=lambda: attention_workers.cold_start_s if attention_workers.cold else 0.0,
        )
        attention_workers.on_refresh = self.admission.give
        self.texts = texts or TextProcesses(assets.directory)
        self.recorder: Recorder | None = None  # set where answers are recorded
        self.shadow: ShadowAnswers | None = None  # set where some are computed again
        self.open_streams: set[ChoiceStream] = set()
        self.closing: RouterError | None = None
        self.idle = asyncio.Event()
        self.idle.set()

    @property
    def context_limit(self) -> ContextLimit:
        return self.attention_workers.context_limit

    def add(self, stream: ChoiceStream) -> None:
        """Registers an open stream, and aborts it at once after `close`."""
        self.open_streams.add(stream)
        self.idle.clear()
        if self.closing is not None:
            stream.abort(self.closing)

    def remove(self, stream: ChoiceStream) -> None:
        self.open_streams.discard(stream)
        if not self.open_streams:
            self.idle.set()

    def close(self, error: RouterError) -> None:
        """Ends every open stream, and every later one, with `error`."""
        self.closing = error
        for stream in list(self.open_streams):
            stream.abort(error)
