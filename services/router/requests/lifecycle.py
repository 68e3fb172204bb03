"""The lifecycle of one sequence, from acceptance to its end, and its metrics."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager

from services.process import tracing
from services.router.requests.errors import RouterError
from services.router.requests.generation_span import choice_ended, choice_failed
from services.router.requests.metrics import RequestMetrics


class RequestLifecycle:
    """Counts one sequence in the metrics. It ends exactly once: with a finish reason, an error's code, or a cancel."""

    def __init__(self, metrics: RequestMetrics, prompt_tokens: int) -> None:
        self._metrics = metrics
        self._began = time.monotonic()
        self._first = self._last = 0.0
        self.prompt_tokens = prompt_tokens
        self.tokens = 0
        self.ending: str | None = None
        self._exemplar = dict(tracing.exemplar() or {}) or None
        metrics.waiting.inc()
        metrics.prompt_tokens.inc(prompt_tokens)
        metrics.prompt_length.observe(prompt_tokens)

    def generated(self, count: int) -> None:
        """Counts tokens that arrived together."""
        now = time.monotonic()
        metrics = self._metrics
        if self.tokens:
            metrics.each_token.between((now - self._last) / count, count, self._exemplar)
        else:
            self._first = now
            metrics.waiting.dec()
            metrics.running.inc()
            metrics.first_token.observe(now - self._began, self._exemplar)
        self._last = now
        self.tokens += count
        metrics.each_token.tokens += count

    def finish(self, reason: str) -> None:
        self._end(reason)
        metrics = self._metrics
        metrics.success(reason).inc()
        metrics.whole.observe(time.monotonic() - self._began, self._exemplar)
        metrics.decode.observe(self._last - self._first, self._exemplar)
        metrics.reply_length.observe(self.tokens)
        if self.tokens > 1:
            metrics.per_token.observe((self._last - self._first) / (self.tokens - 1), self._exemplar)
        choice_ended(self.tokens, reason, max(0.0, self._first - self._began))

    def fail(self, code: str) -> None:
        self._end("error")
        choice_failed(code)
        self._metrics.failure(code).inc()

    def cancel(self) -> None:
        self._end("cancel")
        self._metrics.cancelled.inc()

    def _end(self, ending: str) -> None:
        assert self.ending is None, f"a sequence ended with {self.ending} ends again with {ending}"
        self.ending = ending
        (self._metrics.running if self.tokens else self._metrics.waiting).dec()


@contextmanager
def request_lifecycle(metrics: RequestMetrics, prompt_tokens: int) -> Iterator[RequestLifecycle]:
    """Gives a lifecycle that ends by how the block is left, unless the block has ended it before."""
    lifecycle = RequestLifecycle(metrics, prompt_tokens)
    try:
        yield lifecycle
    except RouterError as error:
        if lifecycle.ending is None:
            lifecycle.fail(error.code)
        raise
    except (asyncio.CancelledError, GeneratorExit):
        if lifecycle.ending is None:
            lifecycle.cancel()
        raise
    except BaseException:
        if lifecycle.ending is None:
            lifecycle.fail(RouterError.code)
        raise
    else:
        if lifecycle.ending is None:
            lifecycle.cancel()
