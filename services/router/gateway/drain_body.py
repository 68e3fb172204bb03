"""A request that is refused before its body is read: the rest of the body is taken in and dropped after the answer.

A socket closed with unread bytes is reset, and a client that still sends would lose the answer to the reset.
"""

from __future__ import annotations

import asyncio
import contextlib

from starlette.types import Message, Receive, Scope, Send

DROP_BYTES, DROP_S = 64 << 20, 5.0  # what a refused client may still send; then the connection is closed all the same


class BodyDrain:
    """One request's `receive` and `send`, in place of the server's."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        names = {name.lower() for name, _ in scope["headers"]}
        self._more = bool(names & {b"content-length", b"transfer-encoding"})  # of the body is still to be read
        self._receive, self._send = receive, send
        self._drops = False

    async def receive(self) -> Message:
        message = await self._receive()
        self._more = message["type"] == "http.request" and message.get("more_body", False)
        return message

    async def send(self, message: Message) -> None:
        """An error before the body is read closes the connection, once the body has come or the limits are up."""
        if message["type"] == "http.response.start":
            self._drops = self._more and message["status"] >= 400
            if self._drops:
                message["headers"] = [*message.get("headers", ()), (b"connection", b"close")]
        if not self._drops or message["type"] != "http.response.body" or message.get("more_body", False):
            await self._send(message)
            return
        await self._send({**message, "more_body": True})  # all of the answer leaves now: its length is in the headers
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DROP_S):
                await self._drop()
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _drop(self) -> None:
        left = DROP_BYTES
        while self._more and left > 0:
            left -= len((await self.receive()).get("body", b""))
