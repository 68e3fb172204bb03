"""The channels of one process to others of its cluster: opened here and nowhere else, and their calls signed.

A channel for calls on an event loop and one for calls on threads have the same methods, so both are wrapped alike.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

import grpc
import grpc.aio

from services.security.calls import CallSigner
from services.security.cluster_key import NO_KEY, ClusterKey

Options = Sequence[tuple[str, int]]
Channel = TypeVar("Channel", grpc.Channel, grpc.aio.Channel)


class Dialer:
    """Opens channels and signs calls over them as one role."""

    def __init__(self, key: ClusterKey = NO_KEY, role: str = "") -> None:
        self._signer = CallSigner(key, role) if key.given else None

    def aio(self, address: str, options: Options = ()) -> grpc.aio.Channel:
        """A channel for calls on an event loop."""
        return grpc.aio.insecure_channel(address, options=options)

    def threaded(self, address: str, options: Options = ()) -> grpc.Channel:
        """A channel for calls on threads."""
        return grpc.insecure_channel(address, options)

    def to_run(self, channel: Channel, boot_id: str) -> Channel:
        """The same channel for the stubs of one run of a process: its calls are signed for that run alone."""
        return cast("Channel", _SignedChannel(channel, self._signer, boot_id)) if self._signer else channel


PLAIN = Dialer()


class _SignedChannel:
    """What stubs need of a channel. What is sent costs nothing more: only the metadata of a call are added."""

    def __init__(self, channel: Any, signer: CallSigner, boot_id: str) -> None:
        self._channel, self._signer, self._boot_id = channel, signer, boot_id

    def unary_unary(self, method: str, *args: Any, **more: Any) -> Callable[..., Any]:
        return self._signing(method, self._channel.unary_unary(method, *args, **more))

    def unary_stream(self, method: str, *args: Any, **more: Any) -> Callable[..., Any]:
        return self._signing(method, self._channel.unary_stream(method, *args, **more))

    def stream_unary(self, method: str, *args: Any, **more: Any) -> Callable[..., Any]:
        return self._signing(method, self._channel.stream_unary(method, *args, **more))

    def stream_stream(self, method: str, *args: Any, **more: Any) -> Callable[..., Any]:
        return self._signing(method, self._channel.stream_stream(method, *args, **more))

    def _signing(self, method: str, inner: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, metadata: Sequence[tuple[str, str]] = (), **more: Any) -> Any:
            return inner(*args, metadata=(*metadata, *self._signer.metadata(method, self._boot_id)), **more)

        return call
