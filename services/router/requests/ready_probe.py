"""Whether an answer comes at all: one token through an attention worker and its experts, before the router first says
that it is ready, and again when no request has had one for a while.

It goes the way of requests and is none: no metric and no log line of theirs has it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import structlog
from caracal_proto import attention_pb2

from services.router.requests.attempt import Attempt, AttemptFailed
from services.router.requests.attention_workers import AttentionWorkerPool
from services.router.requests.worker_choice import AttentionWorkerView

log = structlog.get_logger(__name__)

TOKEN_S = 30.0  # for the token: a worker's first step may compile kernels
LOOK_S = 1.0  # between two looks at what was served, and before a probe that failed is made again
REQUEST = attention_pb2.GenerateRequest(
    request_id="ready-probe",
    attempt=1,
    prompt_ids=[0],
    sampling=attention_pb2.Sampling(top_p=1, repetition_penalty=1, seed=1, max_tokens=1, ignore_eos=True),
    probe=True,
)


class ReadyProbe:
    """One router's probe; for its event loop. `reason` says why it is not ready, as far as probes say; else None."""

    def __init__(
        self,
        pool: AttentionWorkerPool,
        tokens: Callable[[], int],
        idle_s: float,
        waits: Callable[[], bool] = lambda: False,
        token_s: float = TOKEN_S,
    ) -> None:
        """`tokens` counts those that requests have got; without one for `idle_s`, a probe is made (0 = never again).

        `waits`: whether it is known already that answers wait for experts, which no probe has to find out.
        """
        self._pool, self._tokens, self._idle_s, self._waits, self._token_s = pool, tokens, idle_s, waits, token_s
        self._seen, self._served_at = 0, time.monotonic()
        self.reason: str | None = "no token has come through an attention worker and its experts yet"
        self.probes = 0

    async def run(self) -> None:
        """Probes whenever it is due, until cancelled."""
        while True:
            if self._is_due():
                await self._probe()
                await asyncio.sleep(LOOK_S if self.reason else 0)
            await self._pool.wait_for_change(LOOK_S)

    def _is_due(self) -> bool:
        now, tokens = time.monotonic(), self._tokens()
        if tokens != self._seen:
            self._seen, self._served_at, self.reason = tokens, now, None
        if not self._pool.serving or (self._waits() and not self.reason):
            return False
        return self.reason is not None or 0 < self._idle_s < now - self._served_at

    async def _probe(self) -> None:
        self.probes += 1
        worker = self._pool.choose(None, ())
        if worker is None:
            return
        before = self.reason
        self.reason = await self._fault(worker)
        if self.reason is None:
            self._served_at = time.monotonic()
        if self.reason != before:
            note = log.warning if self.reason else log.info
            note("a token came through" if self.reason is None else "no token comes through", reason=self.reason)

    async def _fault(self, worker: AttentionWorkerView) -> str | None:
        """Why no token came by way of this worker; None when one did."""
        stream = await self._pool.stream(worker)
        if stream is None:
            return f"attention worker {worker.worker_id} cannot be reached"
        attempt = stream.begin(worker, REQUEST)
        try:
            async with asyncio.timeout(self._token_s):
                return await _token(attempt, worker.worker_id)
        except AttemptFailed as failed:
            return f"attention worker {worker.worker_id} answers {failed.code.name}: {failed.details[:200]}"
        except TimeoutError:
            return f"no token from attention worker {worker.worker_id} within {self._token_s:g} s"
        finally:
            attempt.cancel()


async def _token(attempt: Attempt, worker_id: str) -> str | None:
    while (event := await attempt.read()) is not None:
        if event.tokens:
            return None
    return f"attention worker {worker_id} has ended an answer without a token"
