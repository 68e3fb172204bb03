"""A cheap HTTP load client: N streaming completions at once over raw sockets, with the arrival time of every token.

It shares the two cores with what it measures, so it parses as little as it can.
"""

import asyncio
import json
import time
from dataclasses import dataclass, field
from urllib.parse import urlsplit


@dataclass
class Stream:
    """One completion as its client saw it. Times are `time.perf_counter()` seconds."""

    started: float
    arrivals: list[float] = field(default_factory=list)  # one per token
    finished: float = 0.0
    tokens: int = 0  # as the server's usage counts them


@dataclass(frozen=True)
class Load:
    """What N streams took together."""

    streams: list[Stream]

    @property
    def seconds(self) -> float:
        return max(s.finished for s in self.streams) - min(s.started for s in self.streams)

    @property
    def tokens_per_second(self) -> float:
        return sum(s.tokens for s in self.streams) / self.seconds

    @property
    def inter_token_seconds(self) -> float:
        """Mean time between two tokens of one stream, over all streams."""
        return sum(s.arrivals[-1] - s.arrivals[0] for s in self.streams) / sum(s.tokens - 1 for s in self.streams)


class BadAnswer(RuntimeError):
    """The server answered something else than a whole stream."""


async def _one(host: str, port: int, body: bytes) -> Stream:
    reader, writer = await asyncio.open_connection(host, port, limit=1 << 20)
    lines = ["POST /v1/completions HTTP/1.1", f"Host: {host}", "Content-Type: application/json", "Connection: close"]
    head = "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""])
    stream = Stream(time.perf_counter())
    writer.write(head.encode() + body)
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
            stream.arrivals.append(time.perf_counter())
    stream.finished = time.perf_counter()
    writer.close()
    if not usage:
        raise BadAnswer("the stream ended without its usage")
    stream.tokens = json.loads(usage)["usage"]["completion_tokens"]
    return stream


async def run_load(url: str, model: str, prompts: list[list[int]], new_tokens: int) -> Load:
    """All prompts at once, greedy, exactly `new_tokens` each. Raises BadAnswer when one of them fails."""
    parts = urlsplit(url)
    assert parts.hostname
    assert parts.port
    jobs = []
    for prompt in prompts:
        body = {
            "model": model,
            "prompt": prompt,
            "max_tokens": new_tokens,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        jobs.append(_one(parts.hostname, parts.port, json.dumps(body).encode()))
    load = Load(list(await asyncio.gather(*jobs)))
    short = [s.tokens for s in load.streams if s.tokens != new_tokens]
    if short:
        raise BadAnswer(f"asked for {new_tokens} tokens, got {short}")
    return load
