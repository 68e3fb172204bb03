"""A request and the engine's state of it: its ids so far, and whether they have ended it. No torch, no I/O."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from opentelemetry.trace import Span

from services.attention_worker.engine.token_rules import Reasoning, TokenRules
from services.prefixes.page_names import PageNames

FIRST_ACCEPTANCE = 0.75  # of a sequence of which nothing is known


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """Sampling parameters. The defaults are neutral: they switch each rule off."""

    temperature: float = 0.0  # 0 = greedy
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int = 0  # any 64 bits, read as signed
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: Mapping[int, float] = field(default_factory=lambda: MappingProxyType({}))
    stop_ids: frozenset[int] = frozenset()
    ignore_eos: bool = False
    min_tokens: int = 0
    max_tokens: int = 0  # over all attempts; 0 = up to the model length
    logprobs: bool = False
    top_logprobs: int = 0
    grammar: str = ""
    allowed_ids: frozenset[int] = frozenset()
    banned: tuple[tuple[int, ...], ...] = ()
    reasoning: Reasoning | None = None
    prompt_logprobs: int | None = None  # alternatives for each token of the prompt; None = it is not scored
    prompt_only: bool = False  # the answer has no tokens

    @property
    def penalised(self) -> bool:
        return self.presence_penalty != 0.0 or self.frequency_penalty != 0.0 or self.repetition_penalty != 1.0

    @property
    def adjusts_logits(self) -> bool:
        """Whether these parameters change logits before the sampling op."""
        return self.penalised or bool(self.logit_bias) or self.min_tokens > 0


class SequenceTrace(Protocol):
    """What the engine says of a traced sequence, and where spans of its steps belong."""

    @property
    def span(self) -> Span: ...

    def scheduled(self) -> bool:
        """Notes that the sequence is part of a step; returns whether this step is one to have a span."""
        ...

    def end(self, ending: Ending) -> None:
        """Ends the spans of a sequence whose receiver gets no ending."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One attempt at a generation. `emitted_ids` were delivered by earlier attempts and are replayed as context."""

    request_id: str
    prompt_ids: tuple[int, ...]
    emitted_ids: tuple[int, ...] = ()
    scored: int = 0  # tokens of the prompt whose scores earlier attempts delivered
    sampling: Sampling = Sampling()
    probe: bool = False  # no user's: its tokens are not counted
    caller: int = 0  # whom it counts for, as its router says: a number without a meaning
    weight: float = 1.0  # the caller's share beside others
    priority: int = 0  # of its caller's requests the lower ones are admitted first, and give way last
    salt: bytes = b""  # only requests with the same one share pages
    layer_checksums: bool = False  # for debugging: what each layer gives is computed anew, and its checksums delivered
    trace: SequenceTrace | None = None

    @property
    def first_unscored(self) -> int:
        """How many tokens of the prompt, from its beginning, need no score."""
        # The first token of a prompt has no score: nothing comes before it.
        prompt = len(self.prompt_ids)
        return prompt if self.sampling.prompt_logprobs is None else min(prompt, max(1, self.scored))

    @property
    def reusable(self) -> int:
        """As Sequence.reusable, at the attempt's beginning."""
        unscored = self.first_unscored < len(self.prompt_ids)
        return (self.first_unscored if unscored else len(self.prompt_ids) + len(self.emitted_ids)) - 1


@dataclass(frozen=True, slots=True)
class TokenOut:
    """One generated token: its index over all attempts, and the CRC-32 of the logits row it was sampled from.

    With a rank, 1 for the likeliest, it is a token of the prompt that was scored, and the index its place there.
    `cached`: of an attempt's first token, how many tokens of the prompt were in the cache. `drafted`: of a step's first
    token, how many tokens its draft had; `draft_place`: where in it this one was right.
    With `layers` it is none that was generated, but one that went through the model: the CRC-32 of its row after the
    embedding and after each layer, and the index its place in prompt and answer.
    """

    index: int
    id: int
    logits_checksum: int
    logprob: float = 0.0
    top: tuple[tuple[int, float], ...] = ()
    rank: int = 0
    cached: int = 0
    layers: tuple[int, ...] = ()
    drafted: int = field(default=0, compare=False)
    draft_place: int = field(default=0, compare=False)  # from 1 on; 0 = it was not drafted, or wrong

    @property
    def generated(self) -> bool:
        """Whether it is a token of the answer."""
        return not self.rank and not self.layers


@dataclass(frozen=True, slots=True)
class Ending:
    """How a sequence ended.

    `unavailable` may succeed on another worker; `failed` is an error of this worker's, `rejected` one of the request's.
    """

    reason: Literal["stop", "length", "cancelled", "unavailable", "failed", "rejected"]
    stop_id: int = 0
    message: str = ""


Emit = Callable[[list[TokenOut], Ending | None], None]


@dataclass(slots=True, eq=False)
class Sequence:
    """The engine's state of one request: its ids, how many of them are in the cache, and where."""

    key: int  # ascends in the order of submission
    request: Request
    stop_ids: frozenset[int]
    max_length: int  # prompt and generated tokens together
    emit: Emit
    rules: TokenRules | None = None
    names: PageNames | None = None  # of its full pages; None where no pages are shared
    ids: list[int] = field(init=False)
    counts: Counter[int] = field(init=False)  # how often each id was generated, for the penalties
    scored: int = field(init=False)  # tokens of the prompt, from its beginning, that need no score any more
    cached: int = 0
    reused: int = 0  # tokens that it found in the cache, until it was preempted
    preempted: bool = False
    row: int | None = None  # in the page table; None while the sequence waits
    ran: int = 0  # the step, as FairShare counts them, in which it last had a turn
    drafts: list[int] = field(default_factory=list)  # what the next tokens may be: for the next step to verify
    acceptance: float = FIRST_ACCEPTANCE  # how often its drafts were right of late, as a share
    ticked_at: float = -math.inf  # when a delivery last said that its prompt goes on, by the monotonic clock

    def __post_init__(self) -> None:
        self.ids = [*self.request.prompt_ids, *self.request.emitted_ids]
        self.counts = Counter(self.request.emitted_ids)
        self.scored = self.request.first_unscored

    @property
    def sampling(self) -> Sampling:
        return self.request.sampling

    @property
    def generated(self) -> int:
        return len(self.ids) - len(self.request.prompt_ids)

    @property
    def remaining(self) -> int:
        """How many tokens still have to go through the model, drafts aside; 1 is a decode."""
        return len(self.ids) - self.cached

    @property
    def hit(self) -> int:
        """How many tokens of the prompt were in the cache."""
        return min(self.reused, len(self.request.prompt_ids))

    @property
    def reusable(self) -> int:
        """How many tokens need no computation if they are cached: neither the last one nor rows that give scores."""
        return (self.scored if self.unscored else len(self.ids)) - 1

    @property
    def unscored(self) -> bool:
        """Whether tokens of the prompt still need a score."""
        return self.scored < len(self.request.prompt_ids)

    @property
    def adjusts_logits(self) -> bool:
        """Whether the logits must be changed before the sampling op."""
        return self.rules is not None or self.sampling.adjusts_logits

    @property
    def stop_masked(self) -> bool:
        """Whether the next token may not be a stop id yet."""
        return self.generated < self.sampling.min_tokens

    @property
    def ending(self) -> Ending | None:
        """The ending that follows from the ids alone, so that a replay ends where the first attempt would."""
        if self.generated and self.ids[-1] in self.stop_ids:
            return Ending("stop", stop_id=self.ids[-1])
        return Ending("length") if len(self.ids) >= self.max_length and not self.unscored else None

    @property
    def most_drafts(self) -> int:
        """How many drafts could become tokens of it in one step: after them there is room for one more token."""
        return max(0, self.max_length - len(self.ids) - 1)

    def append(self, token: int) -> None:
        self.ids.append(token)
        self.counts[token] += 1
