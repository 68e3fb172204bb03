"""The scheduler: which tokens of which sequences the next step runs. No torch, no I/O, no clock.

One caller's sequences of one priority are served first come, first served: admission takes the head of `waiting`,
preemption the tail of `running`. Between callers both are fair: the one that has least is admitted first, the one that
has most gives way.
"""

from __future__ import annotations

import math
from collections import deque

from services.attention_worker.engine.fair_share import FairShare, victims
from services.attention_worker.engine.pages import PagePool
from services.attention_worker.engine.sequence import Sequence
from services.attention_worker.engine.step_cost import StepCost
from services.attention_worker.engine.step_plan import Chunk, StepPlan, draft_work

PROMPT_SHARE = 0.1  # of the time bound that prompts get in any case, also when the decodes alone take all of it


class CannotFit(ValueError):
    """The request's pages would not fit into the cache even if it ran alone."""


class Scheduler:
    """Divides the tokens and the time of a step among sequences, and pages among those that run.

    A step takes at most `max_batch_tokens`. While answers run, prompts get as many tokens as keep its predicted time
    within `max_itl_s`, the seconds between two tokens of a stream; but at least the time of PROMPT_SHARE, and a token,
    so that a prompt always ends. Of prompts that are scored a step takes at most `max_scores` tokens, because each
    needs a row of logits. So a step takes longer than the bound only if decodes, or one prompt token, do. `slowdown` is
    FairShare's.
    """

    def __init__(
        self,
        pages: PagePool,
        max_batch_tokens: int,
        max_running: int,
        max_itl_s: float = math.inf,
        max_scores: int = 256,
        slowdown: float = math.inf,
    ) -> None:
        assert 0 < max_running <= max_batch_tokens, "a step must take one token of every running sequence"
        self.pages = pages
        self.max_batch_tokens = max_batch_tokens
        self.max_running = max_running
        self.max_itl_s = max_itl_s
        self.max_scores = max_scores
        self.cost = StepCost()
        self.fair = FairShare(self.cost, slowdown)
        self.running: list[Sequence] = []
        self.waiting: deque[Sequence] = deque()
        self.preemptions = 0
        self.prefix_queries = self.prefix_hits = 0  # tokens of admitted sequences, and those that were in the cache

    def check_fits(self, max_length: int) -> None:
        """Raises CannotFit when a sequence of `max_length` tokens could never finish here."""
        wanted = self.pages.pages_for(max_length)
        if wanted > self.pages.total:
            raise CannotFit(
                f"{max_length} tokens need {wanted} pages of {self.pages.page_size}, the cache has {self.pages.total} "
                "(CARACAL_KV_PAGES)"
            )

    def submit(self, sequence: Sequence) -> None:
        self.waiting.append(sequence)
        self.fair.waits(sequence)

    def schedule(self) -> list[Chunk]:
        """The chunks of the next step: one token of every decode that has a turn, with its drafts where there is room,
        then prompt chunks."""
        self._make_room()
        preemptions = self.preemptions
        plan = self._decodes()
        self._prefill(plan)
        if self.preemptions == preemptions:  # or a sequence that was just preempted would be admitted again
            self._admit(plan)
        return plan.chunks

    def computed(self, sequence: Sequence, tokens: int) -> None:
        """Notes that the latents of so many tokens more are in its pages: full ones are cached for other sequences."""
        before, sequence.cached = sequence.cached, sequence.cached + tokens
        size = self.pages.page_size
        if sequence.names is not None and sequence.row is not None and before // size != sequence.cached // size:
            self.pages.publish(sequence.row, sequence.names.of(sequence.ids, sequence.cached))

    def forget(self, sequence: Sequence) -> None:
        """Keeps what a running sequence has computed from being used by others."""
        if sequence.row is not None:
            self.pages.forget(sequence.row)

    def remove(self, sequence: Sequence) -> None:
        """Removes a running or waiting sequence and frees its pages."""
        if sequence.row is None:
            self.waiting.remove(sequence)
            self.fair.waits_no_more(sequence)
        else:
            self.running.remove(sequence)
            self._free_pages(sequence)

    def _make_room(self) -> None:
        """Preempts sequences of callers that have most, if the next to be admitted has less and finds no room."""
        if not self.waiting:
            return
        newcomer = self._next()
        lacks = self._lacks(newcomer)
        if lacks > 0 and self._give_draft_pages_back():
            lacks = self._lacks(newcomer)
        if self.running and (lacks > 0 or len(self.running) >= self.max_running):
            leaves = self.pages.freeing(self._cached_names(newcomer))
            for victim in victims(self.running, newcomer, lacks, leaves, self.fair):
                self._preempt(victim)

    def _lacks(self, newcomer: Sequence) -> int:
        """How many pages it needs beyond those that are free."""
        return self.pages.lacking(len(newcomer.ids) + 1, self._cached_names(newcomer))

    def _next(self) -> Sequence:
        """The waiting sequence to be admitted next."""
        return self.fair.next_of(self.waiting)

    def _decodes(self) -> StepPlan:
        chosen, fair_s = self.fair.choose(self.running, self.waiting, self.max_batch_tokens)
        for sequence in chosen:
            if sequence.row is not None:
                self._grow(sequence)
        decodes = [sequence for sequence in chosen if sequence.row is not None]
        if chosen and not decodes:  # all were preempted, so it is others' turn
            return self._decodes()
        plan = StepPlan(self.max_batch_tokens, self.max_scores, fair_s)
        for sequence in decodes:
            plan.add(Chunk(sequence, sequence.cached, 1))
        plan.decodes = len(plan.chunks)
        if drafted := [place for place, decode in enumerate(decodes) if decode.drafts]:
            if self._may_admit or any(sequence.remaining > 1 for sequence in self.running):
                plan.for_prompts = -(-plan.tokens_left // 2)
            if fair_s < math.inf:
                drafted.sort(key=lambda place: not self.fair.has_least(decodes[place]))
        for place in drafted:
            if drafts := self._drafts(plan, decodes[place]):
                plan.extend(place, drafts)
        return plan

    def _drafts(self, plan: StepPlan, decode: Sequence) -> int:
        """How many of a decode's drafts the step takes: they cost no other sequence its page or its turn, and prompts
        at most half of the tokens that are left.

        Those of callers that have least are in `fair_s`.
        """
        drafts = min(len(decode.drafts), plan.draft_tokens)
        late = (
            plan.fair_s < math.inf
            and not self.fair.has_least(decode)
            and self.cost.predict(plan.work + draft_work(decode, drafts)) > plan.fair_s
        )
        return drafts if drafts and not late and self.take_draft_pages(decode, drafts) else 0

    def _grow(self, sequence: Sequence) -> None:
        """Allocates the page of the sequence's next token, if need be by preempting others, or the sequence itself:
        the latest of the caller that has most, if it has more than one."""
        while sequence.row is not None and not self.pages.grow(sequence.row, len(sequence.ids)):
            if not self._give_draft_pages_back():
                self._preempt(self.fair.latest_of_most(self.running))

    def _preempt(self, victim: Sequence) -> None:
        self.running.remove(victim)
        self._free_pages(victim)
        self.waiting.appendleft(victim)
        self.fair.waits(victim)
        victim.preempted = True
        self.preemptions += 1

    def take_draft_pages(self, sequence: Sequence, drafts: int) -> bool:
        """Allocates the pages of a running sequence's drafts; false when there are not enough: none is preempted, and
        what is free is for sequences that wait.
        """
        assert sequence.row is not None
        tokens = len(sequence.ids) + drafts
        return self.pages.has(sequence.row, tokens) if self._may_admit else self.pages.grow(sequence.row, tokens)

    def _give_draft_pages_back(self) -> bool:
        """Frees pages that only drafts need; returns whether there were any."""
        used = self.pages.used
        for sequence in self.running:
            if sequence.row is not None and sequence.remaining == 1:
                self.pages.shrink(sequence.row, len(sequence.ids))
        return self.pages.used < used

    def _prefill(self, plan: StepPlan) -> None:
        for sequence in self.fair.prompts(self.running):
            if not self._chunk(plan, sequence) and not plan.waits_for_scores(sequence):
                return

    @property
    def _may_admit(self) -> bool:
        """Whether a sequence waits that lacks nothing but pages."""
        return bool(self.waiting) and len(self.running) < self.max_running

    def _admit(self, plan: StepPlan) -> None:
        while self._may_admit:
            sequence = self._next()
            if not self._takes(plan, sequence):
                return
            names = self._cached_names(sequence)
            if self.pages.lacking(len(sequence.ids) + 1, names) <= 0 and not self.pages.intact(names):
                names = self._cached_names(sequence)
            # With the first new token's page, or the sequence might be preempted one step after its admission.
            sequence.row = self.pages.allocate(len(sequence.ids) + 1, names)
            if sequence.row is None:
                return
            sequence.cached = len(names) * self.pages.page_size
            self._count(sequence, len(sequence.ids), sequence.cached)
            self.waiting.remove(sequence)
            self.running.append(sequence)
            self.fair.waits_no_more(sequence)
            self.fair.joined(sequence)
            self._chunk(plan, sequence)

    def _cached_names(self, sequence: Sequence, start: int = 0) -> list[bytes]:
        """The names of cached pages that the sequence can use instead of its own from page `start` on."""
        if sequence.names is None:
            return []
        names = sequence.names.of(sequence.ids, sequence.reusable)[start:]
        return names[: self.pages.cached(names)]

    def _takes(self, plan: StepPlan, sequence: Sequence) -> bool:
        """Whether it may be admitted. One that waits for scores is, so that those behind it need not wait as well."""
        return self._room(plan, sequence) > 0 or plan.waits_for_scores(sequence)

    def _chunk(self, plan: StepPlan, sequence: Sequence) -> bool:
        """Adds as much of the sequence's prompt as the step has room for; false when it has none."""
        self._reuse(sequence)
        length = self._room(plan, sequence)
        if length:
            plan.add(Chunk(sequence, sequence.cached, length))
        return length > 0

    def _reuse(self, sequence: Sequence) -> None:
        """Lets a prompt use pages that others have computed since its own last chunk."""
        start = sequence.cached // self.pages.page_size
        names = self._cached_names(sequence, start)
        if names and sequence.row is not None:
            cached = (start + self.pages.share(sequence.row, start, names)) * self.pages.page_size
            self._count(sequence, 0, cached - sequence.cached)
            sequence.cached = cached

    def _count(self, sequence: Sequence, queried: int, hit: int) -> None:
        if sequence.names is not None and not sequence.preempted:
            sequence.reused += hit
            if not sequence.request.probe:
                self.prefix_queries += queried
                self.prefix_hits += hit

    def _room(self, plan: StepPlan, sequence: Sequence) -> int:
        """How many tokens of the sequence the step still takes."""
        most = min(sequence.remaining, plan.tokens_left)
        if sequence.unscored:
            most = min(most, plan.scores_left)
        limit_s = self._limit_s(plan, sequence)
        if most <= 0 or limit_s == math.inf:
            return max(0, most)
        before = plan.work
        if len(plan.chunks) == plan.decodes:
            return max(1, self.cost.prompt_tokens(before, sequence.cached, most, limit_s, PROMPT_SHARE * limit_s))
        return self.cost.prompt_tokens(before, sequence.cached, most, limit_s)

    def _limit_s(self, plan: StepPlan, sequence: Sequence) -> float:
        """How long the step may take with the sequence's prompt."""
        limit_s = self.max_itl_s if plan.decodes else math.inf
        fair_s = plan.fair_s if plan.chunks else math.inf
        return limit_s if fair_s >= limit_s or self.fair.has_least(sequence) else fair_s

    def _free_pages(self, sequence: Sequence) -> None:
        assert sequence.row is not None
        self.pages.free(sequence.row)
        self.fair.left(sequence)
        sequence.row, sequence.cached, sequence.drafts = None, 0, []
