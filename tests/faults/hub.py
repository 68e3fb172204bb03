"""The switchboard of a test's network: every connection between its nodes leads through here, where links are faulty.

`python -m faults.hub CONFIG`: CONFIG is JSON, {"nodes": {ADDRESS: NAME}, "doors": [[LISTEN, PORT, NAME, TARGET]]}. A
link leads from one node to another. Commands come as JSON lines on standard input, and each is answered by a line: the
counts of the link that it names, and how many of its connections are open. The hub ends with its input.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
import sys
from collections import defaultdict
from dataclasses import dataclass, field
from random import Random
from typing import Any

CHUNK = 1 << 16
PIECES = 256  # of a connection, in one direction, that may be on their way at once
RESET = struct.pack("ii", 1, 0)  # SO_LINGER: closing sends a reset


@dataclass
class Link:
    """`hold_there` and `hold_back`: what travels in that direction waits. `rate`: bytes a second of each connection;
    0 = no limit. `seed`, where it is set: of the places of the bits that are flipped."""

    delay_s: float = 0.0
    rate: float = 0.0
    hold_there: bool = False
    hold_back: bool = False
    flips: int = 0  # bits still to be flipped
    rng: Random = field(default_factory=lambda: Random(0))
    counts: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(("passed", "delayed", "throttled", "held", "flipped", "reset"), 0)
    )
    open: set[asyncio.StreamWriter] = field(default_factory=set)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def set(self, values: dict[str, Any]) -> None:
        if "seed" in values:
            self.rng = Random(values.pop("seed"))
        for name, value in values.items():
            setattr(self, name, value)
        self.changed.set()
        self.changed = asyncio.Event()

    def reset(self) -> None:
        """Cuts all of its connections, as a machine does that has forgotten them."""
        for writer in list(self.open):
            connected = writer.get_extra_info("socket")
            with contextlib.suppress(OSError):
                connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            writer.transport.abort()
            self.counts["reset"] += 1

    def due(self, now: float) -> float:
        """When a piece that enters the link now is at its other end: those behind it do not wait for it."""
        self.counts["delayed"] += self.delay_s > 0
        return now + self.delay_s

    async def travel(self, data: bytes, there: bool) -> bytes:
        """Lets a piece at the link's end wait as long as the link says; returns it, perhaps damaged."""
        if self.hold_there if there else self.hold_back:
            self.counts["held"] += 1
            while self.hold_there if there else self.hold_back:
                await self.changed.wait()
        if self.flips and len(data) > 16:
            self.flips -= 1
            self.counts["flipped"] += 1
            data = flipped(data, self.rng)
        if self.rate:
            self.counts["throttled"] += 1
            await asyncio.sleep(len(data) / self.rate)
        self.counts["passed"] += 1
        return data


def flipped(data: bytes, rng: Random) -> bytes:
    """The piece with one bit that is otherwise."""
    damaged, at = bytearray(data), rng.randrange(8 * len(data))
    damaged[at // 8] ^= 1 << at % 8
    return bytes(damaged)


class Hub:
    def __init__(self, nodes: dict[str, str]) -> None:
        self._nodes = nodes
        self._links: dict[tuple[str, str], Link] = defaultdict(Link)

    async def listen(self, host: str, port: int, name: str, target: str) -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            caller = self._nodes.get(writer.get_extra_info("peername")[0], "here")
            await lead(self._links[caller, name], reader, writer, target, port)

        await asyncio.start_server(serve, host, port)

    def command(self, words: dict[str, Any]) -> dict[str, int]:
        link = self._links[words["from"], words["to"]]
        if words.get("reset"):
            link.reset()
        link.set(words.get("set", {}))
        return link.counts | {"open": len(link.open) // 2}


async def lead(link: Link, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, target: str, port: int) -> None:
    """Leads one connection to the target and back."""
    try:
        up_reader, up_writer = await asyncio.open_connection(target, port)
    except OSError:
        writer.transport.abort()
        return
    ends = {writer, up_writer}
    for end in ends:
        end.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    link.open |= ends
    try:
        await asyncio.gather(pump(link, reader, up_writer, there=True), pump(link, up_reader, writer, there=False))
    finally:
        link.open -= ends
        for end in ends:
            end.close()


Line = asyncio.Queue[tuple[float, bytes | None]]  # pieces, each with when it is due; None: the connection was reset


async def pump(link: Link, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, there: bool) -> None:
    """Leads one direction of a connection. Its end travels as its pieces do: a link that holds them holds it, too."""
    line: Line = asyncio.Queue(PIECES)
    receiving = asyncio.create_task(receive(link, reader, line))
    try:
        await send(link, line, writer, there)
    except OSError:
        writer.transport.abort()  # a reset goes on as one
    finally:
        receiving.cancel()


async def receive(link: Link, reader: asyncio.StreamReader, line: Line) -> None:
    now = asyncio.get_running_loop().time
    data: bytes | None = b"begins"
    while data:
        try:
            data = await reader.read(CHUNK)
        except OSError:
            data = None
        await line.put((link.due(now()), data))


async def send(link: Link, line: Line, writer: asyncio.StreamWriter, there: bool) -> None:
    now = asyncio.get_running_loop().time
    while True:
        due, data = await line.get()
        await asyncio.sleep(max(0.0, due - now()))
        arrived = await link.travel(data or b"", there)
        if data is None:
            writer.transport.abort()
            return
        if not data:
            if writer.can_write_eof():
                writer.write_eof()
            return
        writer.write(arrived)
        await writer.drain()


async def main(config: dict[str, Any]) -> None:
    hub = Hub(config["nodes"])
    for door in config["doors"]:
        await hub.listen(*door)
    print("ready", flush=True)
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        print(json.dumps(hub.command(json.loads(line))), flush=True)


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1])))
