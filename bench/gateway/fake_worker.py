"""Attention workers that compute nothing: `python -m bench.gateway.fake_worker FILE TOKENS_PER_S TOKENS WORKERS`.

One gRPC server is all of them, each at an address of its own. Each GenerateMany call gets a step of its own rhythm: one
message with a token for every open attempt, as an engine sends it. Prints the addresses; ends with its standard input.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import uvloop
from caracal_proto import attention_pb2, attention_pb2_grpc
from numpy.typing import NDArray

from bench.gateway.sent_at import FIRST_ID, MOMENTS, send_times


class FakeWorkers(attention_pb2_grpc.AttentionServicer):
    """`tokens_per_s` of each stream; an attempt ends after `tokens`."""

    def __init__(self, times: NDArray[np.float64], tokens_per_s: float, tokens: int) -> None:
        self._times, self._step_s, self._tokens = times, 1 / tokens_per_s, tokens
        self._moments = itertools.count()

    async def Describe(self, request: Any, context: Any) -> attention_pb2.AttentionDescription:
        return attention_pb2.AttentionDescription(numerics_class="fake", kv_pages_total=1 << 20, page_size=64)

    def ApplyTable(self, request: Any, context: Any) -> Any:
        raise NotImplementedError

    def Generate(self, request: Any, context: Any) -> Any:
        raise NotImplementedError

    def Pages(self, request: Any, context: Any) -> Any:
        raise NotImplementedError

    async def GenerateMany(
        self, messages: AsyncIterator[attention_pb2.AttemptMessage], context: Any
    ) -> AsyncIterator[attention_pb2.AttemptEvents]:
        done: dict[int, int] = {}  # tokens of each open attempt

        async def read() -> None:
            async for message in messages:
                if message.HasField("request"):
                    done[message.attempt_id] = 0
                else:
                    done.pop(message.attempt_id, None)

        reading = asyncio.create_task(read())
        await context.send_initial_metadata(())
        due = time.monotonic() + random.random() * self._step_s
        try:
            while not reading.done():
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                due += self._step_s * max(1, -(-(time.monotonic() - due) // self._step_s))  # workers keep apart
                if done:
                    yield self._step(done)
        finally:
            reading.cancel()

    def _step(self, done: dict[int, int]) -> attention_pb2.AttemptEvents:
        moment = next(self._moments) % MOMENTS
        message = attention_pb2.AttemptEvents()
        for attempt_id, index in list(done.items()):
            event = message.events.add(attempt_id=attempt_id).event
            event.attempt = 1
            event.tokens.add(index=index, id=FIRST_ID + moment, logits_checksum=1)
            done[attempt_id] = index + 1
            if index + 1 == self._tokens:
                event.finish_reason = "length"
                del done[attempt_id]
        self._times[moment] = time.monotonic()
        return message


async def serve(times: NDArray[np.float64], tokens_per_s: float, tokens: int, workers: int) -> None:
    server = grpc.aio.server()
    attention_pb2_grpc.add_AttentionServicer_to_server(FakeWorkers(times, tokens_per_s, tokens), server)
    ports = [server.add_insecure_port("127.0.0.1:0") for _ in range(workers)]
    await server.start()
    print(*(f"127.0.0.1:{port}" for port in ports), flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await server.stop(None)


def main() -> None:
    name, tokens_per_s, tokens, workers = sys.argv[1:]
    uvloop.run(serve(send_times(Path(name)), float(tokens_per_s), int(tokens), int(workers)))


if __name__ == "__main__":
    main()
