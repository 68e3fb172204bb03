"""GenerationResponse over a fake ASGI channel: pings, errors before and after the first event, disconnects."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from services.router.gateway.streaming import DONE, PING, Client, GenerationResponse, first_of, keep_awake, run_all
from services.router.requests.errors import NoWorker


def respond(response: GenerationResponse, *, leaves: bool = False) -> list[dict[str, Any]]:
    sent: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        if not leaves:
            await asyncio.sleep(60)
        return {"type": "http.disconnect"}

    asyncio.run(response({"type": "http"}, receive, send))
    return sent


def test_idle_streams_get_pings_and_busy_ones_do_not() -> None:
    async def scenario(*, busy: bool) -> list[bytes]:
        sent: list[bytes] = []

        async def send(message: Any) -> None:
            sent.append(message.get("body", b""))

        client = Client(send)
        pinging = asyncio.create_task(keep_awake(client, 0.1))
        for _ in range(25):
            await asyncio.sleep(0.02)
            if busy:
                await client.events(b"data: 1\n\n")
        pinging.cancel()
        return sent

    assert asyncio.run(scenario(busy=False)).count(PING) >= 2
    assert PING not in asyncio.run(scenario(busy=True))


def test_a_client_that_does_not_read_is_disconnected() -> None:
    async def scenario() -> float:
        async def send(message: Any) -> None:
            if message["type"] == "http.response.body":
                await asyncio.sleep(60)

        client = Client(send)
        began = time.monotonic()
        await first_of(client.events(b"data: 1\n\n"), [keep_awake(client, 0.1, 0.3)])
        return time.monotonic() - began

    assert 0.3 < asyncio.run(scenario()) < 10


def test_an_error_before_the_first_event_has_its_status() -> None:
    async def produce(_: Client) -> None:
        raise NoWorker("nobody")

    start, body = respond(GenerationResponse(produce, stream=True))
    assert start["status"] == 503
    assert (b"retry-after", b"1") in start["headers"]
    assert b'"code":"no_worker"' in body["body"]


def test_an_error_after_the_first_event_is_an_event() -> None:
    async def produce(client: Client) -> None:
        await client.events(b"data: 1\n\n")
        raise ValueError("our own bug, with /a/path")

    messages = respond(GenerationResponse(produce, stream=True))
    assert messages[0]["status"] == 200
    bodies = [message["body"] for message in messages[1:]]
    assert bodies[-2:] == [DONE, b""]
    assert b'"code":"internal_error"' in bodies[1]
    assert b"/a/path" not in b"".join(bodies)


def test_a_disconnect_cancels_the_work() -> None:
    ended: list[str] = []

    async def produce(_: Client) -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.append("cancelled")

    assert respond(GenerationResponse(produce, stream=False), leaves=True) == []
    assert ended == ["cancelled"]


def test_the_first_failure_cancels_the_others() -> None:
    ended: list[str] = []

    async def waits() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.append("cancelled")

    async def fails() -> None:
        await asyncio.sleep(0.01)
        raise NoWorker("nobody")

    with pytest.raises(NoWorker):
        asyncio.run(run_all([waits(), fails(), waits()]))
    assert ended == ["cancelled"] * 2


def test_cancelling_from_outside_reaches_the_work() -> None:
    ended: list[str] = []

    async def waits() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.append("cancelled")

    async def scenario() -> None:
        task = asyncio.create_task(first_of(waits(), [waits()]))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(scenario())
    assert ended == ["cancelled"] * 2
