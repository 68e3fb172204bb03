"""Computes a share of the answers again, at another attention worker of the same numerics class, and compares the
checksums of the logits of each token.

That is done after an answer has ended, while there is little to do, one answer at a time and as one prompt: prefill has
the bits of decode. Expert workers that compute wrongly make answers differ as well. So while it is found out who is
wrong, attention workers compare all calls to these, and an answer that this explains counts against nobody.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
import zlib
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import structlog
from caracal_proto import attention_pb2
from prometheus_client import CollectorRegistry, Counter

from services.membership.quarantine import Quarantine
from services.membership.redis import RedisUnavailable
from services.membership.strikes import WINDOW_S, Strikes, outvoted
from services.router.requests.attempt import AttemptFailed
from services.router.requests.attention_workers import AttentionWorkerPool
from services.router.requests.callers import Caller
from services.router.requests.worker_choice import AttentionWorkerView

log = structlog.get_logger(__name__)

MOST_WAITING = 4  # answers; what comes beyond is not computed again
MOST_TOKENS = 4096  # of prompt and answer
ANSWER_S = 60.0
SUSPECT_S = 20.0  # for which all calls to expert workers are compared, once an answer differs
LOOK_S = 2.5  # until attention workers do so, and until what they have found is known here
SHARED = 2  # the places of the workers are at least so many times the open sequences, or nothing is computed again
CALLER, WEIGHT = Caller("shadow").number, 1e-3

Checksums = tuple[int, ...]


def result_counter() -> Counter:
    """What has become of the answers, by a word."""
    return Counter(
        "caracal_shadow_answers",
        "Answers computed again at another attention worker: same; experts = they differ, and expert workers do; "
        "wrong, undecided; busy, alone, unanswered = they were not compared",
        ["result"],
        registry=None,
    )


class GenerationLike(Protocol):
    """What is known of a generation when it has ended."""

    @property
    def attempts(self) -> int: ...

    @property
    def numerics_class(self) -> str | None: ...

    @property
    def boot_id(self) -> str: ...


@dataclass(slots=True)
class ReadAnswer:
    """One answer's tokens as they come. `expert_differences`: as many were known when it began."""

    shadow: ShadowAnswers
    prompt_ids: Sequence[int]
    expert_differences: float
    ids: array[int] = field(default_factory=lambda: array("I"))
    checksums: array[int] = field(default_factory=lambda: array("I"))
    numerics_class: str = ""
    boot_id: str = ""  # of the worker that has computed it

    def tokens(self, tokens: Sequence[attention_pb2.Token]) -> None:
        """Takes tokens that came."""
        for token in tokens:
            self.ids.append(token.id)
            self.checksums.append(token.logits_checksum)

    def batch(
        self,
        tokens: Sequence[attention_pb2.Token],
        prompt: Sequence[attention_pb2.Token],
        finish_reason: str,
        stop_id: int | None,
    ) -> None:
        """Takes what came together."""
        self.tokens(tokens)

    def end(self, generation: GenerationLike, ending: str, error: str = "") -> None:
        """Has it computed again if one worker alone has computed it."""
        if generation.attempts == 1 and self.ids and len(self.prompt_ids) + len(self.ids) <= MOST_TOKENS:
            self.numerics_class, self.boot_id = generation.numerics_class or "", generation.boot_id
            self.shadow.submit(self)


class ShadowAnswers:
    """One router's, for its event loop."""

    def __init__(self, pool: AttentionWorkerPool, quarantine: Quarantine, share: float, look_s: float = LOOK_S) -> None:
        """`share` of the answers, by their requests' ids."""
        self._pool, self._quarantine, self._look_s = pool, quarantine, look_s
        self._of_2_32 = round(share * 2**32)
        self._waiting: asyncio.Queue[ReadAnswer] = asyncio.Queue(MOST_WAITING)
        self._strikes: Strikes[str] = Strikes()
        self.results = result_counter()

    def show(self, registry: CollectorRegistry) -> None:
        """Adds the counter to the registry."""
        registry.register(self.results)

    def begin(self, request_id: str, prompt_ids: Sequence[int]) -> ReadAnswer | None:
        """What takes the tokens of an answer that begins; None for one that is not computed again."""
        if zlib.crc32(request_id.encode()) >= self._of_2_32:
            return None
        return ReadAnswer(self, prompt_ids, self._expert_differences())

    def submit(self, answer: ReadAnswer) -> None:
        """Takes an answer that has ended; drops it while there is much to do."""
        try:
            self._waiting.put_nowait(answer)
        except asyncio.QueueFull:
            self._count("busy")

    async def run(self) -> None:
        """Computes answers again until cancelled."""
        while True:
            answer = await self._waiting.get()
            self._count(await self._check(answer))

    async def _check(self, answer: ReadAnswer) -> str:
        """Returns the result in a word."""
        if SHARED * sum(self._pool.open_on.values()) > self._pool.capacity.places:
            return "busy"
        others = self._others(answer, {answer.boot_id})
        if not others:
            return "alone"
        again = await self._compute(others[0], answer)
        if again is None:
            return "unanswered"
        return "same" if again == tuple(answer.checksums) else await self._judge(answer, others[0], again)

    async def _judge(self, answer: ReadAnswer, other: AttentionWorkerView, again: Checksums) -> str:
        """Finds out which of two workers is wrong, if it is one of them."""
        given = tuple(answer.checksums)
        token = next(at for at, (one, two) in enumerate(zip(given, again, strict=True)) if one != two)
        with contextlib.suppress(RedisUnavailable):
            await self._quarantine.suspect(SUSPECT_S)
        await asyncio.sleep(self._look_s)
        third = [one.boot_id for one in self._others(answer, {answer.boot_id, other.boot_id})]
        votes = outvoted((answer.boot_id, given), (other.boot_id, again), third)
        try:
            asked = next(votes)
            while True:
                worker = self._known(asked)
                asked = votes.send(await self._compute(worker, answer) if worker is not None else None)
        except StopIteration as end:
            wrong: str | None = end.value
        await asyncio.sleep(self._look_s)
        if self._expert_differences() != answer.expert_differences:
            log.warning("an answer differs since expert workers do", token=token)
            return "experts"
        worker = self._known(wrong) if wrong is not None else None
        if worker is None:
            log.warning("two attention workers differ, and nobody knows which is wrong", token=token)
            return "undecided"
        await self._note(worker, token)
        return "wrong"

    async def _note(self, worker: AttentionWorkerView, token: int) -> None:
        """Takes a worker that was found wrong. Where several are, it is something that they have in common."""
        now = time.monotonic()
        enough = self._strikes.add(worker.boot_id, now)
        if not enough or self._strikes.others(worker.boot_id, now):
            log.warning("an attention worker gave wrong logits", worker=worker.worker_id, token=token)
            return
        reason = f"logits of its answers were not those of other workers, twice within {WINDOW_S:g} s"
        log.error("an attention worker computes wrongly; it is left out", worker=worker.worker_id, reason=reason)
        with contextlib.suppress(RedisUnavailable):  # it will be found wrong again
            await self._quarantine.add(worker.boot_id, reason)

    async def _compute(self, worker: AttentionWorkerView, answer: ReadAnswer) -> Checksums | None:
        """The checksums of the answer's tokens as a worker computes them; None when it does not."""
        stream = await self._pool.stream(worker)
        if stream is None:
            return None
        attempt = stream.begin(worker, _request(answer))
        found: dict[int, int] = {}
        try:
            async with asyncio.timeout(ANSWER_S):
                while (event := await attempt.read()) is not None:
                    found |= {token.index: token.logits_checksum for token in event.prompt}
        except (AttemptFailed, TimeoutError):
            return None
        finally:
            attempt.cancel()
        first = len(answer.prompt_ids)
        places = range(first, first + len(answer.ids))
        return tuple(found[place] for place in places) if all(place in found for place in places) else None

    def _others(self, answer: ReadAnswer, without: set[str]) -> list[AttentionWorkerView]:
        """The workers that could have given the answer, least loaded first."""
        own = [one for one in self._pool.workers if one.serving and one.numerics_class == answer.numerics_class]
        return sorted((one for one in own if one.boot_id not in without), key=lambda one: one.load)

    def _known(self, boot_id: str) -> AttentionWorkerView | None:
        return next((one for one in self._pool.workers if one.boot_id == boot_id), None)

    def _expert_differences(self) -> float:
        return sum(one.expert_differences for one in self._pool.workers)

    def _count(self, result: str) -> None:
        self.results.labels(result).inc()


def _request(answer: ReadAnswer) -> attention_pb2.GenerateRequest:
    """Has prompt and answer computed as one prompt, anew, and the answer's tokens scored."""
    return attention_pb2.GenerateRequest(
        request_id="shadow-answer",
        attempt=1,
        prompt_ids=[*answer.prompt_ids, *answer.ids],
        scored=len(answer.prompt_ids),
        sampling=attention_pb2.Sampling(prompt_logprobs=0, prompt_only=True, max_tokens=1),
        probe=True,
        caller=CALLER,
        weight=WEIGHT,
    )
