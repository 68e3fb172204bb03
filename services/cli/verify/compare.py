"""Compares what a replay gives with what was recorded, token by token; pure."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from services.router.recording.lines import Recorded, Scored


class TopLike(Protocol):
    """A likely id as workers send it."""

    @property
    def id(self) -> int: ...

    @property
    def logprob(self) -> float: ...


class TokenLike(Protocol):
    """A token as workers send it."""

    @property
    def id(self) -> int: ...

    @property
    def logits_checksum(self) -> int: ...

    @property
    def logprob(self) -> float: ...

    @property
    def rank(self) -> int: ...

    @property
    def top(self) -> Sequence[TopLike]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """The first difference of one request. `token`: the index in the answer, or in the prompt with `in_prompt`."""

    what: str  # logits, token, log-probability, length or ending
    token: int
    recorded: str
    found: str
    in_prompt: bool = False

    def words(self, prompt: int) -> str:
        """`prompt`: how many tokens the prompt has."""
        where = f"token {self.token} of the {'prompt' if self.in_prompt else 'answer'}"
        position = self.token if self.in_prompt else prompt + self.token
        return f"{where} (position {position}): {self.what} {self.found}, recorded {self.recorded}"


class Comparison:
    """Takes the tokens of one replay in their order. `tokens` counts those that were compared and are the same."""

    def __init__(self, recorded: Recorded) -> None:
        self._recorded = recorded
        self.tokens = 0
        self._scored = 0
        self.difference: Difference | None = None

    @property
    def whole(self) -> bool:
        """Whether the ending is compared, too: a worker gave it. Else only the recorded tokens are."""
        return bool(self._recorded.finish_reason)

    @property
    def done(self) -> bool:
        """Whether nothing is left to compare."""
        return self.difference is not None or (not self.whole and self.tokens >= len(self._recorded.ids))

    def take(
        self,
        tokens: Sequence[TokenLike],
        prompt: Sequence[TokenLike] = (),
        finish_reason: str = "",
        stop_id: int | None = None,
    ) -> None:
        """Takes what came together; `finish_reason` comes with the last."""
        for token in prompt:
            if self.difference is None:
                self.difference = self._in_prompt(token)
        for token in tokens:
            if not self.done:
                self.difference = self._of(token)
        if finish_reason and not self.done:
            self.difference = self._ending(finish_reason, stop_id)

    def _of(self, token: TokenLike) -> Difference | None:
        recorded, index = self._recorded, self.tokens
        if index >= len(recorded.ids):
            return Difference(what="length", token=index, recorded=f"{index} tokens", found="more")
        if token.logits_checksum != recorded.checksums[index]:
            old, new = f"{recorded.checksums[index]:08x}", f"{token.logits_checksum:08x}"
            return Difference(what="logits", token=index, recorded=old, found=new)
        if token.id != recorded.ids[index]:  # drawn from the same logits: the rules or the sampler differ
            return Difference(what="token", token=index, recorded=str(recorded.ids[index]), found=str(token.id))
        if recorded.logprobs is not None and (differs := _score(recorded.logprobs[index], token)):
            return Difference(what="log-probability", token=index, recorded=differs[0], found=differs[1])
        self.tokens += 1
        return None

    def _in_prompt(self, token: TokenLike) -> Difference | None:
        scores = self._recorded.prompt_logprobs
        if scores is None or (self._scored >= len(scores) and not self.whole):
            return None
        place = 1 + self._scored  # the first token of a prompt has no score
        if self._scored >= len(scores):
            return Difference(
                what="length", token=place, recorded=f"{len(scores)} scores", found="more", in_prompt=True
            )
        if differs := _score(scores[self._scored], token):
            return Difference(
                what="log-probability", token=place, recorded=differs[0], found=differs[1], in_prompt=True
            )
        self._scored += 1
        return None

    def _ending(self, finish_reason: str, stop_id: int | None) -> Difference | None:
        recorded = self._recorded
        if self.tokens < len(recorded.ids):
            return Difference(
                what="length",
                token=self.tokens,
                recorded=f"{len(recorded.ids)} tokens",
                found=f"{self.tokens} tokens",
            )
        if recorded.prompt_logprobs is not None and self._scored < len(recorded.prompt_logprobs):
            return Difference(
                what="length",
                token=1 + self._scored,
                recorded=f"{len(recorded.prompt_logprobs)} scores",
                found=f"{self._scored} scores",
                in_prompt=True,
            )
        old, new = (recorded.finish_reason, recorded.stop_id), (finish_reason, stop_id)
        if old != new:
            return Difference(what="ending", token=self.tokens, recorded=_ended(*old), found=_ended(*new))
        return None


def _ended(reason: str, stop_id: int | None) -> str:
    return reason if stop_id is None else f"{reason} (id {stop_id})"


def _score(recorded: Scored, token: TokenLike) -> tuple[str, str] | None:
    """What was recorded and what was found, where one bit differs."""
    values = [
        (_bits(recorded.logprob), _bits(token.logprob)),
        *zip(
            ((id, _bits(logprob)) for id, logprob in recorded.top),
            ((one.id, _bits(one.logprob)) for one in token.top),
            strict=False,
        ),
    ]
    if recorded.rank != token.rank:
        return f"rank {recorded.rank}", f"rank {token.rank}"
    if len(recorded.top) != len(token.top):
        return f"{len(recorded.top)} alternatives", f"{len(token.top)}"
    return next(((_shown(old), _shown(new)) for old, new in values if old != new), None)


def _bits(value: float) -> str:
    return struct.pack(">f", value).hex()


def _shown(value: object) -> str:
    return f"id {value[0]} {value[1]}" if isinstance(value, tuple) else str(value)


class ScoreComparison:
    """Takes prompt and answer scored as one prompt, and compares each log-probability with that of the answer's token
    when it was generated. `tokens` counts those that are the same."""

    def __init__(self, recorded: Recorded) -> None:
        self._recorded = recorded
        self._place = 1  # the first token of a prompt has no score
        self.tokens = 0
        self.difference: Difference | None = None

    def take(self, prompt: Sequence[TokenLike]) -> None:
        """Takes the next scored tokens."""
        scores = self._recorded.logprobs or ()
        for token in prompt:
            index = self._place - len(self._recorded.prompt_ids)
            self._place += 1
            if self.difference is not None or not 0 <= index < len(scores):
                continue
            old, new = _bits(scores[index].logprob), _bits(token.logprob)
            if old == new:
                self.tokens += 1
            else:
                what = "log-probability of the answer as a prompt"
                self.difference = Difference(what=what, token=index, recorded=old, found=new)
