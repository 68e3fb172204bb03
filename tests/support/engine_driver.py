"""Drives an engine step by step on the test's own thread and records what every request received."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from random import Random

from caracal_kernels import GateWeights
from torch import Tensor

from services.attention_worker.engine.draft_policy import DraftPolicy
from services.attention_worker.engine.drafting import DraftCounters
from services.attention_worker.engine.engine import Engine, EngineLimits, ModelLike
from services.attention_worker.engine.sequence import Ending, Request, Sampling, Sequence, TokenOut
from services.attention_worker.engine.token_rules import TokenRules
from services.attention_worker.model.interfaces import DispatcherLike, MoEHandleLike
from services.attention_worker.model.step import Step


def limits(
    *,
    num_pages: int = 64,
    page_size: int = 16,
    max_batch_tokens: int = 64,
    max_running: int = 16,
    max_len: int = 256,
    max_itl_s: float = math.inf,
    max_scores: int = 256,
    slowdown: float = math.inf,
    prefix_cache: bool = True,
    host_pages: int = 0,
    drafts: int = 0,
) -> EngineLimits:
    return EngineLimits(
        num_pages=num_pages,
        page_size=page_size,
        max_batch_tokens=max_batch_tokens,
        max_running=max_running,
        max_model_len=max_len,
        max_itl_s=max_itl_s,
        max_scores=max_scores,
        slowdown=slowdown,
        prefix_cache=prefix_cache,
        host_pages=host_pages,
        drafts=drafts,
    )


@dataclass
class Received:
    """Everything one request received, and the logits rows its tokens were sampled from."""

    key: int = -1
    prompt: list[int] = field(default_factory=list)
    tokens: list[TokenOut] = field(default_factory=list)
    endings: list[Ending] = field(default_factory=list)
    rows: list[Tensor] = field(default_factory=list)
    ticks: int = 0  # deliveries that only say that the prompt goes on

    def __call__(self, tokens: list[TokenOut], ending: Ending | None) -> None:
        assert not self.endings, "received something after its ending"
        self.ticks += not tokens and ending is None
        self.tokens += tokens
        if ending:
            self.endings.append(ending)

    @property
    def ids(self) -> list[int]:
        return [token.id for token in self.tokens if not token.rank]

    @property
    def cached(self) -> int:
        """How many tokens of the prompt were in the cache."""
        return next(token.cached for token in self.tokens if not token.rank)

    @property
    def scores(self) -> list[TokenOut]:
        """The scored tokens of the prompt."""
        return [token for token in self.tokens if token.rank]


def hand_over(source: Engine, successor: Engine, names: list[bytes]) -> int:
    """Gives one engine, between its steps, what another has of these pages; returns how many."""
    reading = source.exchange.read(names)
    source.step()
    rows_RB = reading.result(0)
    pages = [(name, row_B.numpy().tobytes()) for name, row_B in zip(names, rows_RB, strict=False)]
    inserting = successor.exchange.insert(pages, set(names))
    successor.step()
    assert inserting.result(0)
    return len(rows_RB)


class NoDispatcher:
    """A dispatcher for models that have no MoE layers."""

    def start(self, layer: int, h_TD: Tensor, gate: GateWeights, step: Step) -> MoEHandleLike:
        raise AssertionError("this model has no MoE layer")


class ObservedModel:
    """A model that gives every row of logits to the request it belongs to; `shuffle` mixes the free pages."""

    engine: Engine

    def __init__(self, model: ModelLike, received: dict[int, Received], shuffle: Random | None) -> None:
        self._model, self._received, self._shuffle = model, received, shuffle
        self.ngram, self.drafts = model.ngram, model.drafts

    def draft(self, step: Step, rows_T: Tensor, caches: list[Tensor]) -> Tensor:
        return self._model.draft(step, rows_T, caches)

    def new_cache(self, num_pages: int, page_size: int) -> list[Tensor]:
        return self._model.new_cache(num_pages, page_size)

    def forward(self, step: Step, caches: list[Tensor], dispatcher: DispatcherLike) -> Tensor:
        logits_BV = self._model.forward(step, caches, dispatcher)
        key_of_row = {sequence.row: sequence.key for sequence in self.engine.scheduler.running}
        for row, logits_V in zip(step.seq_T[step.sample_rows_B].tolist(), logits_BV, strict=True):
            self._received[key_of_row[row]].rows.append(logits_V.clone())
        if self._shuffle:
            self._shuffle.shuffle(self.engine.cache.pages._free)
        return logits_BV


class AlwaysDrafts(DraftPolicy):
    """Drafts as much as it may, whatever it costs."""

    def wanted(self, sequence: Sequence) -> int:
        return min(self.most, sequence.most_drafts)


class Driver:
    """An engine, which drafts as much as it may, and what each of its requests received."""

    def __init__(
        self,
        model: ModelLike,
        dispatcher: DispatcherLike | None = None,
        sizes: EngineLimits | None = None,
        eos_ids: frozenset[int] = frozenset(),
        shuffle: Random | None = None,
    ) -> None:
        self.received: dict[int, Received] = {}
        observed = ObservedModel(model, self.received, shuffle)
        self.engine = Engine(
            observed,
            dispatcher or NoDispatcher(),
            sizes or limits(),
            eos_ids,
        )
        observed.engine = self.engine
        if self.engine.drafter is not None:
            self.engine.drafter.policy = AlwaysDrafts(self.engine.drafter.policy.most, self.engine.scheduler.cost)

    @property
    def drafted(self) -> DraftCounters:
        """What the engine has drafted, without a failure."""
        assert self.engine.drafter is not None
        assert not self.engine.drafter.counters.failed
        return self.engine.drafter.counters

    def submit(
        self,
        prompt: list[int],
        sampling: Sampling,
        emitted: list[int] | None = None,
        *,
        scored: int = 0,
        rules: TokenRules | None = None,
        caller: int = 0,
        priority: int = 0,
        salt: bytes = b"",
        layer_checksums: bool = False,
        probe: bool = False,
    ) -> Received:
        received = Received(prompt=prompt)
        request = Request(
            request_id="r",
            prompt_ids=tuple(prompt),
            emitted_ids=tuple(emitted or ()),
            scored=scored,
            sampling=sampling,
            caller=caller,
            priority=priority,
            salt=salt,
            layer_checksums=layer_checksums,
            probe=probe,
        )
        received.key = self.engine.submit(request, received, rules)
        self.received[received.key] = received
        return received

    def cancel(self, received: Received) -> None:
        self.engine.cancel(received.key)

    def finish(self, max_steps: int = 100_000) -> None:
        """Steps until nothing is left; then every request has one ending and no page is in use."""
        for _ in range(max_steps):
            if not self.engine.step():
                break
        assert all(len(received.endings) == 1 for received in self.received.values())
        assert self.engine.cache.pages.used == 0
