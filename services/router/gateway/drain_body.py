"""Reads and drops the rest of a body after a request was rejected before its body was read.

A socket closed with unread bytes is reset, and a client that still sends would lose the response to the reset.
"""

from __future__ import annotations

import asyncio
import contextlib

from starlette.types import Message, Receive, Scope, Send

DROP_BYTES, DROP_S = 64 << 20, 5.0  # what a rejected client may still send before the connection is closed anyway


class BodyDrain:
    """Wraps one request's ASGI `receive` and `send`."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        names = {name.lower() for name, _ in scope["headers"]}
        self._unread = bool(names & {b"content-length", b"transfer-encoding"})  # whether body bytes are still to come
        self._receive, self._send = receive, send
        self._drops = False

    async def receive(self) -> Message:
        message = await self._receive()
        self._unread = message["type"] == "http.request" and message.get("more_body", False)
        return message

    async def send(self, message: Message) -> None:
        """Sends; after an error, drops the unread body within the limits and then closes the connection."""
        if message["type"] == "http.response.start":
            self._drops = self._unread and message["status"] >= 400
            if self._drops:
                message["headers"] = [*message.get("headers", ()), (b"connection", b"close")]
        if not self._drops or message["type"] != "http.response.body" or message.get("more_body", False):
            await self._send(message)
            return
        # The client has the whole response now: its length is in the headers.
        await self._send({**message, "more_body": True})
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DROP_S):
                await self._drop()
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _drop(self) -> None:
        left = DROP_BYTES
        while self._unread and left > 0:
            left -= len((await self.receive()).get("body", b""))
