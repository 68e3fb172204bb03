"""One choice of an answer: a generation, its text and its life, read piece by piece."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from caracal_proto import attention_pb2

from services.router.requests.assets import ModelAssets
from services.router.requests.attention_workers import Fleet
from services.router.requests.detokenizer import Vocabulary
from services.router.requests.errors import RouterError
from services.router.requests.generation import Generation, Order
from services.router.requests.lifecycle import Life, lived
from services.router.requests.metrics import RequestMetrics
from services.router.requests.stops import StopStrings
from services.router.requests.text import TextFold


@dataclass(frozen=True, slots=True, kw_only=True)
class TextRules:
    """How ids become text."""

    stop: Sequence[str] = ()
    include_stop: bool = False
    skip_special_tokens: bool = True
    shown_ids: frozenset[int] = frozenset()  # special tokens shown all the same


@dataclass(frozen=True, slots=True)
class Piece:
    """Text and tokens that came together; `finish_reason` is set on the last piece."""

    text: str
    tokens: Sequence[attention_pb2.Token]
    finish_reason: str | None = None


class Reply:
    """Use as a context manager: however it is left, the worker is told and the sequence ends exactly once."""

    def __init__(self, cluster: Cluster, order: Order, rules: TextRules) -> None:
        self._cluster = cluster
        self._order = order
        self._rules = rules
        self._exit = ExitStack()
        vocabulary = cluster.assets.vocabulary
        skipped = vocabulary.special_ids - rules.shown_ids if rules.skip_special_tokens else frozenset()
        self._text = TextFold(
            vocabulary.decoder(skipped),
            StopStrings(rules.stop, include=rules.include_stop),
            min_tokens=order.sampling.min_tokens,
            checked=bool(rules.stop),
        )
        self.stop_reason: str | int | None = None
        self.reasoning_tokens = 0  # counted by whoever tells reasoning from content

    def __enter__(self) -> Reply:
        self._life: Life = self._exit.enter_context(lived(self._cluster.metrics, len(self._order.prompt_ids)))
        self._generation = self._exit.enter_context(Generation(self._cluster.fleet, self._cluster.metrics, self._order))
        self._cluster.opened(self)
        self._exit.callback(self._cluster.left, self)
        return self

    def __exit__(self, *exc: object) -> None:
        self._exit.__exit__(*exc)  # type: ignore[arg-type]

    @property
    def vocabulary(self) -> Vocabulary:
        return self._cluster.assets.vocabulary

    @property
    def prompt_ids(self) -> Sequence[int]:
        return self._order.prompt_ids

    @property
    def prompt_tokens(self) -> int:
        return self._life.prompt_tokens

    @property
    def completion_tokens(self) -> int:
        return self._life.tokens

    @property
    def cached_tokens(self) -> int:
        return self._generation.cached_tokens

    @property
    def numerics_class(self) -> str:
        return self._generation.numerics_class or ""

    def abort(self, error: RouterError) -> None:
        """Ends the reply from outside with an error."""
        self._generation.abort(error)

    async def next(self) -> Piece:
        """The next piece. Raises RouterError."""
        arrival = await self._generation.arrival()
        tokens = arrival.tokens
        ids = [token.id for token in tokens]
        hidden_stop = arrival.stop_id is not None and not self._rules.include_stop
        text, used = self._text.push(ids[:-1] if hidden_stop and ids else ids)
        if self._text.hit is not None:
            self._life.generated(used)
            self.stop_reason = self._text.hit
            return self._last(text, tokens[:used], "stop")
        if tokens:
            self._life.generated(len(tokens))
        if not arrival.finish_reason:
            return Piece(text, tokens)
        text += self._text.finish()
        if self._text.hit is not None:
            self.stop_reason = self._text.hit
        elif arrival.stop_id is not None and arrival.stop_id not in self._order.eos_ids:
            self.stop_reason = arrival.stop_id
        return self._last(text, tokens, arrival.finish_reason)

    def _last(self, text: str, tokens: Sequence[attention_pb2.Token], reason: str) -> Piece:
        self._life.finish(reason)
        return Piece(text, tokens, reason)


class Cluster:
    """What every reply needs: the model's assets, the fleet, the metrics. One per router process."""

    def __init__(self, assets: ModelAssets, fleet: Fleet, metrics: RequestMetrics) -> None:
        self.assets = assets
        self.fleet = fleet
        self.metrics = metrics
        self.open_replies: set[Reply] = set()
        self.closing: RouterError | None = None
        self.idle = asyncio.Event()
        self.idle.set()

    @property
    def max_model_len(self) -> int:
        return min(self.assets.max_model_len, self.fleet.max_model_len)

    def opened(self, reply: Reply) -> None:
        self.open_replies.add(reply)
        self.idle.clear()
        if self.closing is not None:
            reply.abort(self.closing)

    def left(self, reply: Reply) -> None:
        self.open_replies.discard(reply)
        if not self.open_replies:
            self.idle.set()

    def close(self, error: RouterError) -> None:
        """Ends every open reply, and every later one, with `error`."""
        self.closing = error
        for reply in list(self.open_replies):
            reply.abort(error)
