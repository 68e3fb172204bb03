"""Clients that repeat their requests, and how long each of them waits between two tokens."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import grpc
import grpc.aio
from caracal_proto import attention_pb2, router_pb2
from caracal_proto.router_pb2_grpc import RouterStub

ANSWER_S = 120.0
FIRST_WORD = 400  # the benchmarks' vocabularies have a token for each "wN" of some 310 and more

Token = tuple[int, int]  # its id and the checksum of its logits


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What the callers ask for: how many they are, and the tokens of a prompt and of an answer."""

    callers: int
    prompt: int
    answer: int


@dataclass(slots=True)
class Answer:
    """One request of a caller, as far as it came. Times are `time.perf_counter` seconds."""

    began: float = field(default_factory=time.perf_counter)
    tokens: list[Token] = field(default_factory=list)
    times: list[float] = field(default_factory=list)


class Callers:
    """Each repeats one greedy request until the block ends, which cuts the last one off.

    `lost`: requests that ended with an error, or did not come to their end.
    """

    def __init__(self, target: str, load: Load) -> None:
        self.answers: list[list[Answer]] = [[] for _ in range(load.callers)]
        self.errors: list[str] = []
        self._target, self._load = target, load

    async def __aenter__(self) -> Callers:
        self._channel = grpc.aio.insecure_channel(self._target)
        self._tasks = [asyncio.create_task(self._repeat(caller)) for caller in range(self._load.callers)]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._channel.close()

    @property
    def lost(self) -> int:
        return len(self.errors)

    async def more(self, tokens: int) -> None:
        """Waits until each has had so many more. After ANSWER_S those that have not are lost."""
        wanted, end = [self._had(caller) + tokens for caller in range(len(self.answers))], time.monotonic() + ANSWER_S
        while late := [caller for caller, many in enumerate(wanted) if self._had(caller) < many]:
            if time.monotonic() > end:
                self.errors += [f"caller {caller} stands still" for caller in late]
                return
            await asyncio.sleep(0.02)

    def longest_gaps(self, since: float, until: float) -> list[float]:
        """Each caller's longest time between two tokens of an answer, of those that touch what is between two moments;
        a caller without any such time has none here."""
        found = [list(_touching(answers, since, until)) for answers in self.answers]
        return [max(later - earlier for earlier, later in gaps) for gaps in found if gaps]

    def gaps(self, since: float, until: float) -> list[tuple[float, float]]:
        """All of them, as (from, to)."""
        return [gap for answers in self.answers for gap in _touching(answers, since, until)]

    def first_tokens(self, since: float, until: float) -> list[float]:
        """How long the requests that began in between waited for their first token."""
        begun = [one for answers in self.answers for one in answers if since < one.began < until and one.times]
        return [one.times[0] - one.began for one in begun]

    def _had(self, caller: int) -> int:
        return sum(len(answer.tokens) for answer in self.answers[caller])

    async def _repeat(self, caller: int) -> None:
        sampling = attention_pb2.Sampling(seed=1, max_tokens=self._load.answer, ignore_eos=True)
        request = router_pb2.TextRequest(prompt=f"w{FIRST_WORD + caller}" * self._load.prompt, sampling=sampling)
        while True:
            self.answers[caller].append(answer := Answer())
            ended = False
            try:
                async for event in RouterStub(self._channel).Generate(request, timeout=ANSWER_S):
                    answer.tokens += [(token.id, token.logits_checksum) for token in event.tokens]
                    answer.times += [time.perf_counter()] * len(event.tokens)
                    ended |= bool(event.finish_reason)
            except grpc.aio.AioRpcError as error:
                self.errors.append(f"{error.code().name}: {error.details()}")
                await asyncio.sleep(0.1)  # one that is rejected at once is not to ask all the time
            else:
                if not ended:
                    self.errors.append("an answer has no end")


class Expected:
    """What each caller's answer is: the longest one that it has had. Answers are that one or its beginning."""

    def __init__(self, callers: int) -> None:
        self._longest: list[list[Token]] = [[] for _ in range(callers)]

    def changed(self, answers: Sequence[Sequence[Answer]]) -> int:
        """How many answers differ, bit for bit."""
        count = 0
        for caller, own in enumerate(answers):
            for answer in own:
                longest, tokens = self._longest[caller], answer.tokens
                common = min(len(longest), len(tokens))
                count += longest[:common] != tokens[:common]
                if len(tokens) > len(longest):
                    self._longest[caller] = tokens
        return count


def _touching(answers: Sequence[Answer], since: float, until: float) -> Iterator[tuple[float, float]]:
    for answer in answers:
        for earlier, later in pairwise(answer.times):
            if since < later and earlier < until:
                yield earlier, later
