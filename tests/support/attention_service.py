"""An attention worker's service over a real socket: a fake model, no dispatcher, and a channel to it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
from caracal_proto import attention_pb2, attention_pb2_grpc
from support.engine_driver import NoDispatcher, limits
from support.fake_model import VOCAB, FakeModel

from services.attention_worker.engine.delivery import LoopDelivery
from services.attention_worker.engine.engine import Engine, EngineLimits, ModelLike
from services.attention_worker.grammars import GrammarCompiler
from services.attention_worker.migration.migration import Migration
from services.attention_worker.model.interfaces import DispatcherLike
from services.attention_worker.server import AttentionServer
from services.attention_worker.service import AttentionService, Identity
from services.security.channels import PLAIN

NO_MODEL = Path("/nonexistent")


class Worker:
    """A worker, by default with a fake model and no dispatcher, and a channel to it."""

    def __init__(
        self,
        sizes: EngineLimits,
        model_dir: Path,
        vocab: int = VOCAB,
        eos_ids: frozenset[int] = frozenset(),
        parts: tuple[ModelLike, DispatcherLike] | None = None,
    ) -> None:
        """`parts`: a real model, and its dispatcher."""
        loop = asyncio.get_running_loop()
        self.model = FakeModel(vocab)
        model, dispatcher = parts or (self.model, NoDispatcher())
        self.engine = Engine(
            model,
            dispatcher,
            sizes,
            eos_ids,
            deliver=LoopDelivery(loop),
        )
        identity = Identity(worker_id="attention-0", boot_id="b", numerics_class="caracal-test")
        self.grammars = GrammarCompiler(model_dir, vocab, eos_ids or frozenset({2}))
        self.migration = Migration(self.engine, PLAIN)
        self.service = AttentionService(
            self.engine, vocab, identity, lambda table: table.epoch, self.grammars, migration=self.migration
        )
        self.server = AttentionServer(self.service)
        self.thread = threading.Thread(target=self.engine.run)

    async def start(self) -> None:
        self.thread.start()
        port = await self.server.start("127.0.0.1", 0)
        self.target = f"127.0.0.1:{port}"
        self.channel = grpc.aio.insecure_channel(self.target)
        self.stub: Any = attention_pb2_grpc.AttentionStub(self.channel)

    async def stop(self) -> None:
        await self.channel.close()
        await self.server.stop(5)
        self.engine.stop()
        await asyncio.to_thread(self.thread.join)
        self.grammars.close()
        assert self.engine.cache.pages.used == 0


@asynccontextmanager
async def worker(
    sizes: EngineLimits | None = None,
    model_dir: Path = NO_MODEL,
    vocab: int = VOCAB,
    eos_ids: frozenset[int] = frozenset(),
) -> AsyncIterator[Worker]:
    """`model_dir`: where grammars find the tokenizer."""
    one = Worker(sizes or limits(max_len=256), model_dir, vocab, eos_ids)
    await one.start()
    try:
        yield one
    finally:
        await one.stop()


def request(prompt: list[int] | None = None, **sampling: Any) -> attention_pb2.GenerateRequest:
    asked = attention_pb2.Sampling(**{"max_tokens": 20, **sampling})
    return attention_pb2.GenerateRequest(request_id="r", attempt=3, prompt_ids=prompt or [1, 2, 3], sampling=asked)


def run(body: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(body(), 60))


async def status(call: Any) -> tuple[grpc.StatusCode, str]:
    try:
        [event async for event in call]
    except grpc.aio.AioRpcError as error:
        return error.code(), error.details() or ""
    return grpc.StatusCode.OK, ""


async def pages_free(one: Worker) -> None:
    async with asyncio.timeout(20):
        while one.engine.cache.pages.used or one.engine.scheduler.waiting:  # noqa: ASYNC110 - another thread's state
            await asyncio.sleep(0.002)
