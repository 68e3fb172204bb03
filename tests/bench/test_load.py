"""The benchmark's client, against a server that streams completions over real sockets."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable

import pytest

from bench.load import BadAnswer, Load, run_load


def event(content: dict[str, object]) -> bytes:
    return b"data: " + json.dumps(content, separators=(",", ":")).encode() + b"\n\n"


class Server:
    """Streams as many tokens as asked for; the second stream's first token waits for the first one's third."""

    def __init__(self, missing: int = 0) -> None:
        self._missing = missing  # tokens that every answer is short of
        self._third = asyncio.Event()

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
        body = json.loads(await reader.readexactly(length))
        late = body["prompt"] == [2]
        if late:
            await self._third.wait()
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        for number in range(body["max_tokens"]):
            writer.write(event({"choices": [{"text": "x"}]}))
            await writer.drain()
            if number == 2 and not late:
                await asyncio.sleep(0.05)  # the client has read all three before the other stream begins
                self._third.set()
                await asyncio.sleep(0.05)
        writer.write(event({"choices": [], "usage": {"completion_tokens": body["max_tokens"] - self._missing}}))
        writer.close()


async def loaded(server: Server, on_decode: Callable[[], None]) -> Load:
    listening = await asyncio.start_server(server, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    async with listening:
        return await run_load(f"http://127.0.0.1:{port}", "bench", [[1], [2]], 8, on_decode)


def test_decoding_begins_when_every_stream_has_a_token() -> None:
    calls: list[int] = []
    load = asyncio.run(loaded(Server(), lambda: calls.append(1)))
    assert calls == [1]
    assert load.decode_steps == 7  # of the late stream, whose first token made it begin
    assert [len(stream.token_times) for stream in load.streams] == [8, 8]
    assert load.tokens_per_second == pytest.approx(16 / load.seconds)
    assert load.streams[0].token_times[2] < load.streams[1].token_times[0]


def test_a_short_answer_is_an_error() -> None:
    with pytest.raises(BadAnswer, match=r"asked for 8 tokens, got \[7, 7\]"):
        asyncio.run(loaded(Server(missing=1), lambda: None))
