"""An attention worker with the real protocol and scripted tokens, for tests of the router."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio
from caracal_proto import attention_pb2, attention_pb2_grpc

from services.router.requests.worker_choice import AttentionWorkerView

Context = Any  # of an attempt: it has `abort`
Send = Callable[[attention_pb2.AttemptEvent], None]
Script = Callable[[attention_pb2.GenerateRequest, Context], AsyncIterator[attention_pb2.GenerateEvent]]


def token(index: int, token_id: int, request: attention_pb2.GenerateRequest) -> attention_pb2.Token:
    """Returns a token whose log-probabilities depend on its id only."""
    result = attention_pb2.Token(index=index, id=token_id, logits_checksum=zlib.crc32(b"%d" % token_id))
    if request.sampling.logprobs:
        result.logprob = -token_id / 1000
        for rank in range(request.sampling.top_logprobs):
            result.top.add(id=token_id + rank, logprob=-(token_id + rank) / 1000)
    return result


def answers_with(
    ids: Sequence[int],
    *,
    chunk: int = 1,
    pause: float = 0.0,
    finish: str = "stop",
    eos: int | None = None,
    cached: int = 0,
) -> Script:
    """Returns a script that answers every request with `ids`, `chunk` at a time, after the ids emitted before.

    `cached`: tokens of the prompt that every attempt says were in its cache.
    """

    async def script(request: attention_pb2.GenerateRequest, _: Context) -> AsyncIterator[attention_pb2.GenerateEvent]:
        wanted = [*ids, *([] if eos is None else [eos])][: request.sampling.max_tokens]
        cut = len(wanted) < len(ids) + (eos is not None)
        done = len(request.emitted_ids)
        assert list(request.emitted_ids) == wanted[:done]
        while done < len(wanted):
            end = min(done + chunk, len(wanted))
            event = attention_pb2.GenerateEvent(attempt=request.attempt)
            event.cached_tokens = cached if done == len(request.emitted_ids) else 0
            event.tokens.extend(token(i, wanted[i], request) for i in range(done, end))
            if end == len(wanted):
                event.finish_reason = "length" if cut else finish
                event.stop_id = 0 if eos is None or cut else eos
            yield event
            done = end
            await asyncio.sleep(pause)

    return script


@dataclass
class FakeAttention:
    """One worker that counts its requests; `script` may be replaced at any time."""

    script: Script
    worker_id: str = "attention-0"
    numerics_class: str = "caracal-fake"
    max_model_len: int = 0
    kv_pages: int = 0  # of 64 tokens
    places: int = 0
    epoch: int = 1
    requests: list[attention_pb2.GenerateRequest] = field(default_factory=list)
    opened: int = 0
    finished: int = 0
    cancelled: int = 0
    port: int = 0
    server: grpc.aio.Server | None = None
    frozen: bool = False  # answers no Describe, like a stopped process
    resets: int = 0  # streams that break with the next attempt on them, though the worker lives

    @property
    def running(self) -> int:
        return self.opened - self.finished - self.cancelled

    def record(self, **changes: Any) -> AttentionWorkerView:
        fields: dict[str, Any] = {
            "worker_id": self.worker_id,
            "address": f"127.0.0.1:{self.port}",
            "boot_id": f"{self.worker_id}-boot",
            "numerics_class": self.numerics_class,
            "epoch": self.epoch,
        }
        return AttentionWorkerView(**(fields | changes))

    async def start(self, port: int = 0) -> None:
        self.server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
        attention_pb2_grpc.add_AttentionServicer_to_server(_Servicer(self), self.server)
        self.port = self.server.add_insecure_port(f"127.0.0.1:{port}")
        await self.server.start()

    async def stop(self) -> None:
        """Breaks open streams at once, like a kill."""
        if self.server is not None:
            await self.server.stop(None)
            self.server = None


class _Servicer(attention_pb2_grpc.AttentionServicer):
    def __init__(self, fake: FakeAttention) -> None:
        self._fake = fake

    async def Describe(
        self, request: attention_pb2.AttentionDescribeRequest, context: Context
    ) -> attention_pb2.AttentionDescription:
        fake = self._fake
        while fake.frozen:  # noqa: ASYNC110  tests unfreeze it from another thread
            await asyncio.sleep(0.01)
        return attention_pb2.AttentionDescription(
            worker_id=fake.worker_id,
            boot_id=f"{fake.worker_id}-boot",
            numerics_class=fake.numerics_class,
            max_model_len=fake.max_model_len,
            kv_pages_total=fake.kv_pages,
            page_size=64,
            places=fake.places,
        )

    def ApplyTable(self, request: Any, context: Any) -> Any:
        raise NotImplementedError

    def Generate(self, request: Any, context: Any) -> Any:
        raise NotImplementedError

    def Pages(self, request: Any, context: Any) -> Any:
        raise NotImplementedError

    async def GenerateMany(
        self, messages: AsyncIterator[attention_pb2.AttemptMessage], context: Any
    ) -> AsyncIterator[attention_pb2.AttemptEvents]:
        open_: dict[int, asyncio.Task[None]] = {}
        events: asyncio.Queue[attention_pb2.AttemptEvent | None] = asyncio.Queue()
        # A call that ends before its client has got anything ends as INTERNAL there, whatever status it has.
        await context.send_initial_metadata(())

        async def read() -> None:
            async for message in messages:
                if message.HasField("request") and self._fake.resets:
                    self._fake.resets -= 1
                    events.put_nowait(None)
                elif message.HasField("request"):
                    task = asyncio.create_task(self._run(message.attempt_id, message.request, events.put_nowait))
                    open_[message.attempt_id] = task
                else:
                    open_[message.attempt_id].cancel()

        reading = asyncio.create_task(read())
        try:
            while True:
                event = await events.get()
                if event is None:
                    await context.abort(grpc.StatusCode.UNAVAILABLE, "the connection was reset")
                else:
                    yield attention_pb2.AttemptEvents(events=[event])
        finally:
            for task in (reading, *open_.values()):
                task.cancel()
            await asyncio.gather(reading, *open_.values(), return_exceptions=True)

    async def _run(self, attempt_id: int, request: attention_pb2.GenerateRequest, send: Send) -> None:
        """Runs the script of one attempt. It aborts the attempt alone."""
        fake = self._fake
        fake.requests.append(request)
        fake.opened += 1
        ended = attention_pb2.AttemptEvent(attempt_id=attempt_id)
        try:
            async for event in fake.script(request, _AttemptContext()):
                send(attention_pb2.AttemptEvent(attempt_id=attempt_id, event=event))
            ended.status, ended.details = grpc.StatusCode.UNAVAILABLE.value[0], "ended without a finish reason"
        except asyncio.CancelledError:
            fake.cancelled += 1
            raise
        except _Abort as abort:
            ended.status, ended.details = abort.code.value[0], abort.details
        fake.finished += 1
        send(ended)


class _Abort(Exception):
    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        super().__init__(details)
        self.code, self.details = code, details


class _AttemptContext:
    """What a script may do to its attempt."""

    async def abort(self, code: grpc.StatusCode, details: str = "") -> None:
        raise _Abort(code, details)
