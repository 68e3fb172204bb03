"""A channel whose certificate follows the files: each call is made over a connection with what is in them now.

Calls that are open stay on the connection they began on, which is kept until they are over.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from typing import Any


class RotatingChannel:
    """What stubs, and those who watch a connection, need of a channel: for calls on a loop and for those on threads."""

    def __init__(self, opened: Callable[[], Any], generation: Callable[[], int]) -> None:
        """`opened` makes a channel with the certificate of now; `generation` rises when that changes."""
        self._opened, self._generation = opened, generation
        self._lock = threading.Lock()
        self._known = generation()
        self._channel = opened()
        self._all = weakref.WeakSet([self._channel])
        self._closed = False

    def now(self) -> Any:
        """The channel for calls that are made now."""
        with self._lock:
            generation = self._generation()
            if generation != self._known and not self._closed:
                self._known, self._channel = generation, self._opened()
                self._all.add(self._channel)
            return self._channel

    def unary_unary(self, method: str, *args: Any, **more: Any) -> Callable[..., Any]:
        return self._calling("unary_unary", method, *args, **more)

    def unary_stream(self, method: str, *args: Any, **more: Any) -> Callable[..., Any]:
        return self._calling("unary_stream", method, *args, **more)

    def stream_unary(self, method: str, *args: Any, **more: Any) -> Callable[..., Any]:
        return self._calling("stream_unary", method, *args, **more)

    def stream_stream(self, method: str, *args: Any, **more: Any) -> Callable[..., Any]:
        return self._calling("stream_stream", method, *args, **more)

    def _calling(self, kind: str, *args: Any, **more: Any) -> Callable[..., Any]:
        channel = self.now()
        bound: tuple[Any, Callable[..., Any]] = channel, getattr(channel, kind)(*args, **more)

        def call(*own: Any, **owns: Any) -> Any:
            nonlocal bound
            channel, method = bound  # once: another thread may change it
            if channel is not (now := self.now()):
                channel, method = bound = now, getattr(now, kind)(*args, **more)
            made = method(*own, **owns)
            if hasattr(made, "add_done_callback"):
                made.add_done_callback(lambda _: channel)  # holds it, so that `close` finds it
            return made

        return call

    def get_state(self, try_to_connect: bool = False) -> Any:
        return self.now().get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: Any) -> None:
        await self.now().wait_for_state_change(last_observed_state)

    def close(self, grace: float | None = None) -> Any:
        """Closes every connection; on a loop, to be awaited."""
        with self._lock:
            self._closed = True
            channels = [self._channel, *(one for one in self._all if one is not self._channel)]
        if hasattr(self._channel, "wait_for_state_change"):
            return _close_all(channels, grace)
        for channel in channels:
            channel.close()
        return None

    def __enter__(self) -> RotatingChannel:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> RotatingChannel:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


async def _close_all(channels: list[Any], grace: float | None) -> None:
    for channel in channels:
        await channel.close(grace)
