"""A TCP proxy that delays the server's bytes: every round trip takes `delay_s` longer."""

import asyncio
import sys
import time


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(1 << 16):
        writer.write(data)
        await writer.drain()
    writer.close()


async def _delay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delay_s: float) -> None:
    queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

    async def deliver() -> None:
        while True:
            due, data = await queue.get()
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            if not data:
                writer.close()
                return
            writer.write(data)

    task = asyncio.create_task(deliver())
    while data := await reader.read(1 << 16):
        queue.put_nowait((time.perf_counter() + delay_s, data))
    queue.put_nowait((0.0, b""))
    await task


async def run(listen: str, target: str, delay_s: float) -> None:
    """Forwards connections from `listen` to `target` (both host:port) until cancelled."""
    (host, port), (target_host, target_port) = listen.rsplit(":", 1), target.rsplit(":", 1)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            up_reader, up_writer = await asyncio.open_connection(target_host, int(target_port))
        except OSError:
            writer.close()  # the worker is not up yet: the caller's session fails and it retries
            return
        async with asyncio.TaskGroup() as group:
            group.create_task(_copy(reader, up_writer))
            group.create_task(_delay(up_reader, writer, delay_s))

    server = await asyncio.start_server(serve, host, int(port))
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(run(sys.argv[1], sys.argv[2], float(sys.argv[3])))
