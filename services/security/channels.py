"""The channels of one process to others of its cluster: opened here and nowhere else, with TLS where it
is on, and their calls signed.

A channel for calls on an event loop and one for calls on threads have the same methods, so both are wrapped alike.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

import grpc
import grpc.aio

from services.security.calls import CallSigner
from services.security.cluster_key import NO_KEY, ClusterKey
from services.security.rotating_channel import RotatingChannel
from services.security.tls import NO_TLS, Tls

Options = Sequence[tuple[str, int]]
Channel = TypeVar("Channel", grpc.Channel, grpc.aio.Channel)


class Dialer:
    """Opens channels and signs calls over them as one role."""

    def __init__(self, key: ClusterKey = NO_KEY, role: str = "", tls: Tls = NO_TLS) -> None:
        self._signer = CallSigner(key, role) if key.given else None
        self._tls = tls

    @property
    def encrypts(self) -> bool:
        """Whether TLS is on."""
        return self._tls.given

    def aio(self, address: str, role: str, options: Options = ()) -> grpc.aio.Channel:
        """A channel for calls on an event loop, to a process of the role."""
        if not self._tls.given:
            return grpc.aio.insecure_channel(address, options=options)
        return self._rotating(grpc.aio.secure_channel, address, role, options)

    def threaded(self, address: str, role: str, options: Options = ()) -> grpc.Channel:
        """A channel for calls on threads, to a process of the role."""
        if not self._tls.given:
            return grpc.insecure_channel(address, options)
        return self._rotating(grpc.secure_channel, address, role, options)

    def to_run(self, channel: Channel, boot_id: str) -> Channel:
        """The same channel for the stubs of one run of a process: its calls are signed for that run alone."""
        return cast("Channel", _SignedChannel(channel, self._signer, boot_id)) if self._signer else channel

    def _rotating(self, opened: Callable[..., Channel], address: str, role: str, options: Options) -> Channel:
        # Whoever is there has to be of the role: its certificate has this name, at whatever address.
        named = (*options, ("grpc.ssl_target_name_override", self._tls.server_name(role)))

        def open_now() -> Channel:
            return opened(address, self._tls.channel(), options=named)

        return cast("Channel", RotatingChannel(open_now, lambda: self._tls.generation))


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
