"""The hub's links do what they say: a delay is one for each piece, a blackhole holds ends too, flips are the seed's."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random

from faults.hub import Hub, flipped

DELAY_S, PIECES = 0.4, 20
SOME_S = 0.1
Ends = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@asynccontextmanager
async def echo() -> AsyncIterator[tuple[Hub, Ends]]:
    """A hub, and a connection by it to a server that sends back what it gets."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    hub = Hub({})
    await hub.listen("127.0.0.2", port, "server", "127.0.0.1")
    reader, writer = await asyncio.open_connection("127.0.0.2", port)
    try:
        yield hub, (reader, writer)
    finally:
        hub.command({"from": "here", "to": "server", "set": {"hold_there": False, "hold_back": False}})
        writer.close()
        server.close()


def fault(hub: Hub, **values: object) -> dict[str, int]:
    return hub.command({"from": "here", "to": "server", "set": values})


def test_a_delay_does_not_limit_how_much_passes() -> None:
    async def body() -> None:
        async with echo() as (hub, (reader, writer)):
            fault(hub, delay_s=DELAY_S)
            loop = asyncio.get_running_loop()
            began = loop.time()
            for _ in range(PIECES):
                writer.write(b"a piece that travels by itself")
                await asyncio.sleep(0.01)
            await reader.readexactly(PIECES * 30)
            took_s = loop.time() - began
            assert fault(hub)["delayed"] > PIECES
            assert took_s >= 2 * DELAY_S  # there, and back
            assert took_s < PIECES * DELAY_S  # not one behind the other

    asyncio.run(body())


def test_what_a_blackhole_holds_comes_later_and_so_does_the_end() -> None:
    async def body() -> None:
        async with echo() as (hub, (reader, writer)):
            fault(hub, hold_back=True)
            writer.write(b"held")
            writer.write_eof()
            await asyncio.sleep(SOME_S)
            assert fault(hub)["held"] == 1
            assert not reader._buffer  # type: ignore[attr-defined]
            assert not reader.at_eof()
            fault(hub, hold_back=False)
            assert await reader.read() == b"held"

    asyncio.run(body())


def test_a_reset_is_one_at_both_ends() -> None:
    async def body() -> None:
        async with echo() as (hub, (reader, writer)):
            writer.write(b"some")
            await reader.readexactly(4)
            assert hub.command({"from": "here", "to": "server", "reset": True})["reset"] == 2
            with contextlib.suppress(OSError):
                assert not await reader.read()

    asyncio.run(body())


def test_flips_are_those_of_the_seed() -> None:
    async def body(seed: int) -> bytes:
        async with echo() as (hub, (reader, writer)):
            fault(hub, flips=1, seed=seed)
            writer.write(bytes(64))
            damaged = await reader.readexactly(64)
            assert fault(hub)["flipped"] == 1
            return damaged

    one, same, other = (asyncio.run(body(seed)) for seed in (1, 1, 2))
    assert one == same == flipped(bytes(64), Random(1))
    assert one != other
    assert sum(bin(byte).count("1") for byte in one) == 1
