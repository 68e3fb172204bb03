"""An HTTP load client: concurrent streaming completions over raw sockets, with the time of every token.

It shares the cores with the processes that it measures, so it parses as little as possible.
"""

import asyncio
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import urlsplit


@dataclass
class Stream:
    """One completion, as seen by its client. Times are `time.perf_counter()` seconds."""

    started: float
    token_times: list[float] = field(default_factory=list)
    finished: float = 0.0
    tokens: int = 0  # by the server's usage, as are the next two
    prompt: int = 0
    cached: int = 0
    ids: list[int] = field(default_factory=list)  # of the answer, if the request wants them


@dataclass
class Load:
    """Concurrent streams, and their throughput and latency.

    `decode_steps` counts the steps after every stream has had its first token: those of the stream that was last.
    """

    streams: list[Stream]
    decode_steps: int = 0

    @property
    def seconds(self) -> float:
        return max(s.finished for s in self.streams) - min(s.started for s in self.streams)

    @property
    def tokens_per_second(self) -> float:
        return sum(s.tokens for s in self.streams) / self.seconds

    @property
    def inter_token_seconds(self) -> float:
        """The mean time between two tokens of a stream, over all streams."""
        return sum(s.token_times[-1] - s.token_times[0] for s in self.streams) / sum(s.tokens - 1 for s in self.streams)


class BadAnswer(RuntimeError):
    """The server did not send a complete stream."""


def nothing() -> None:
    """For callers that want no call."""


async def follow(url: str, body: dict[str, object], stream: Stream, on_first: Callable[[], None] = nothing) -> None:
    """Sends a streaming completion and fills `stream` as it goes; calls `on_first` after its first token.

    A cancel closes the connection. Raises BadAnswer.
    """
    parts = urlsplit(url)
    assert parts.hostname
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port, limit=1 << 20)
    try:
        data = json.dumps(body).encode()
        lines = ["POST /v1/completions HTTP/1.1", f"Host: {parts.hostname}", "Content-Type: application/json"]
        head = "\r\n".join([*lines, "Connection: close", f"Content-Length: {len(data)}", "", ""])
        stream.started = time.perf_counter()
        writer.write(head.encode() + data)
        status = await reader.readline()
        if b" 200 " not in status:
            raise BadAnswer(f"{status!r}: {(await reader.read())[-500:]!r}")
        usage = b""
        while line := await reader.readline():
            if not line.startswith(b"data: {"):
                continue
            if b'"choices":[]' in line:
                usage = line[6:]
            elif b'"usage":{' in line or b'"text":' in line:
                stream.token_times.append(time.perf_counter())
                if b'"token_ids":[' in line:
                    stream.ids += json.loads(line[6:])["choices"][0]["token_ids"]
                if len(stream.token_times) == 1:
                    on_first()
        stream.finished = time.perf_counter()
        if not usage:
            raise BadAnswer("the stream ended without its usage")
        counts = json.loads(usage)["usage"]
        stream.tokens, stream.prompt = counts["completion_tokens"], counts.get("prompt_tokens", 0)
        stream.cached = counts.get("prompt_tokens_details", {}).get("cached_tokens", 0)
    finally:
        writer.close()


def completion(model: str, prompt: list[int], new_tokens: int) -> dict[str, object]:
    """The body of a greedy streaming completion of exactly `new_tokens`."""
    return {
        "model": model,
        "prompt": prompt,
        "max_tokens": new_tokens,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


async def run_load(
    url: str, model: str, prompts: list[list[int]], new_tokens: int, on_decode: Callable[[], None] = nothing
) -> Load:
    """Sends all prompts at once, greedy, with exactly `new_tokens` each; calls `on_decode` when all have a first token.

    Raises BadAnswer when one fails.
    """
    load = Load([Stream(time.perf_counter()) for _ in prompts])

    def on_first() -> None:
        received = [len(stream.token_times) for stream in load.streams]
        if all(received):
            load.decode_steps = new_tokens - min(received)
            on_decode()

    await asyncio.gather(
        *(
            follow(url, completion(model, prompt, new_tokens), stream, on_first)
            for prompt, stream in zip(prompts, load.streams, strict=True)
        )
    )
    short = [s.tokens for s in load.streams if s.tokens != new_tokens]
    if short:
        raise BadAnswer(f"asked for {new_tokens} tokens, got {short}")
    return load
