"""What an HTTP client costs a load generator: CPU time and lateness per event of many streams, on loopback.

A process of its own sends Server-Sent Events at a fixed interval, each with the time at which it was due; the client
parses each. Legend: an event is one `data:` line with a JSON object of about 250 bytes.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import multiprocessing
import statistics
import time
from collections.abc import AsyncIterable, Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent / "results" / "http-clients.json"
INTERVAL_S = 0.1
Read = Callable[[str, int], Awaitable[list[float]]]


def serve(port: Any, events: int) -> None:
    """Answers every connection with `events` events; puts its port into the queue `port`."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
            due = time.monotonic()
            for _ in range(events):
                due += INTERVAL_S
                await asyncio.sleep(due - time.monotonic())
                body = {"sent": time.monotonic(), "choices": [{"index": 0, "text": " word", "pad": "x" * 150}]}
                data = b"data: " + json.dumps(body).encode() + b"\n\n"
                writer.write(b"%x\r\n%b\r\n" % (len(data), data))
            writer.write(b"0\r\n\r\n")
            await writer.drain()
        writer.close()

    async def run() -> None:
        server = await asyncio.start_server(answer, "127.0.0.1", 0, backlog=4096)
        port.put(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(run())


async def _delays(lines: AsyncIterable[str | bytes]) -> list[float]:
    return [time.monotonic() - json.loads(line[6:])["sent"] async for line in lines if line.strip()]


async def with_httpx2(url: str, streams: int) -> list[float]:
    """Returns the delay of each event, in seconds."""
    import httpx2

    async def one(client: httpx2.AsyncClient) -> list[float]:
        async with client.stream("POST", url, json={}) as response:
            return await _delays(response.aiter_lines())

    transport = httpx2.AsyncHTTPTransport(limits=httpx2.Limits(max_connections=None))
    async with httpx2.AsyncClient(transport=transport, timeout=60) as client:
        return list(itertools.chain(*await asyncio.gather(*(one(client) for _ in range(streams)))))


async def with_aiohttp(url: str, streams: int) -> list[float]:
    """Returns the delay of each event, in seconds."""
    import aiohttp

    async def one(session: aiohttp.ClientSession) -> list[float]:
        async with session.post(url, json={}) as response:
            return await _delays(response.content)

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        return list(itertools.chain(*await asyncio.gather(*(one(session) for _ in range(streams)))))


def measure(read: Read, streams: int, events: int, uvloop: bool) -> dict[str, float]:
    """Runs one client against a server of its own."""
    context = multiprocessing.get_context("spawn")
    port = context.Queue()
    server = context.Process(target=serve, args=(port, events), daemon=True)
    server.start()
    url = f"http://127.0.0.1:{port.get()}/v1/completions"
    if uvloop:
        import uvloop as loops

        run: Any = loops.run
    else:
        run = asyncio.run
    run(read(url, 1))  # imports
    started = time.process_time()
    delays = run(read(url, streams))
    cpu = time.process_time() - started
    server.terminate()
    server.join()
    return {
        "cpu_us_per_event": cpu / len(delays) * 1e6,
        "p50_delay_ms": statistics.median(delays) * 1e3,
        "p99_delay_ms": statistics.quantiles(delays, n=100)[98] * 1e3,
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.http_clients", description=__doc__)
    parser.add_argument("--streams", type=int, default=256)
    parser.add_argument("--events", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    clients: dict[str, tuple[Read, bool]] = {
        "httpx2": (with_httpx2, False),
        "aiohttp": (with_aiohttp, False),
        "aiohttp, uvloop": (with_aiohttp, True),
    }
    rounds = [
        {name: measure(read, arguments.streams, arguments.events, loop) for name, (read, loop) in clients.items()}
        for _ in range(arguments.rounds)
    ]
    found = {
        name: {key: statistics.median(one[name][key] for one in rounds) for key in rounds[0][name]} for name in clients
    }
    about = {"streams": arguments.streams, "events_per_stream": arguments.events, "rounds": arguments.rounds}
    arguments.out.write_text(json.dumps({**about, "medians": found, "all": rounds}, indent=2) + "\n")
    for name, values in found.items():
        print(f"{name}: " + ", ".join(f"{key} {value:.2f}" for key, value in values.items()))


if __name__ == "__main__":
    main()
