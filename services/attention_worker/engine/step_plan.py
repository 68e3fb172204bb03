"""A step that is being put together: chunks of sequences, and the room that is left in it. No torch, no I/O."""

from __future__ import annotations

from dataclasses import dataclass, field

from services.attention_worker.engine.sequence import Sequence
from services.attention_worker.engine.step_cost import Work


@dataclass(frozen=True, slots=True)
class Chunk:
    """Consecutive tokens of one sequence in one step: the whole prompt, a part of it, or the one token of a decode.

    The last `drafts` of them are the first of the sequence's drafts; only a decode has any.
    """

    sequence: Sequence
    start: int
    length: int
    drafts: int = 0

    @property
    def known(self) -> int:
        """How many of its tokens are no drafts."""
        return self.length - self.drafts

    @property
    def ids(self) -> list[int]:
        """Its tokens."""
        known = self.sequence.ids[self.start : self.start + self.known]
        return known + self.own_drafts if self.drafts else known

    @property
    def own_drafts(self) -> list[int]:
        """Those of its tokens that are drafts."""
        return self.sequence.drafts[: self.drafts]

    @property
    def samples(self) -> bool:
        """Whether a token is sampled after the chunk's known ones: they end with the last of the sequence's."""
        end, sequence = self.start + self.length - self.drafts, self.sequence
        return end == len(sequence.ids) and not sequence.request.sampling.prompt_only

    @property
    def scores(self) -> range:
        """The places of the prompt's tokens that the chunk's rows score: each row the token after its own."""
        prompt, sequence = len(self.sequence.request.prompt_ids), self.sequence
        return range(max(self.start + 1, sequence.scored), min(self.start + self.known + 1, prompt))

    @property
    def decode(self) -> bool:
        """Whether it is the next token of a running answer."""
        return self.samples and self.known == 1

    @property
    def work(self) -> Work:
        return Work.of_chunk(self.start, self.length, self.decode)


@dataclass(slots=True)
class StepPlan:
    """The chunks of a step that is being put together, and how many tokens it still takes."""

    tokens_left: int
    scores_left: int
    fair_s: float  # how long it may take for prompts of callers that have more than others
    chunks: list[Chunk] = field(default_factory=list)
    decodes: int = 0
    for_prompts: int = 0  # of the tokens, that drafts leave to prompts
    work: Work = field(default_factory=Work)

    def add(self, chunk: Chunk) -> None:
        self.chunks.append(chunk)
        self.tokens_left -= chunk.length
        if chunk.sequence.unscored:
            self.scores_left -= len(chunk.scores)
        self.work += chunk.work

    @property
    def draft_tokens(self) -> int:
        """How many tokens of drafts the step still takes."""
        return max(0, self.tokens_left - self.for_prompts)

    def extend(self, place: int, drafts: int) -> None:
        """Adds drafts to a decode."""
        decode = self.chunks[place]
        self.chunks[place] = Chunk(decode.sequence, decode.start, 1 + drafts, drafts)
        self.tokens_left -= drafts
        self.work += draft_work(decode.sequence, drafts)

    def waits_for_scores(self, sequence: Sequence) -> bool:
        """Whether the step still takes tokens, but no more of prompts that are scored."""
        return sequence.unscored and self.scores_left <= 0 < self.tokens_left


def draft_work(decode: Sequence, drafts: int) -> Work:
    """What drafts add to a step."""
    return Work.of_chunk(decode.cached + 1, drafts, decode=True)
