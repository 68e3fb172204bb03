"""The channels of one process to others of its cluster: opened here and nowhere else, with TLS where it
is on, their calls signed, and every message with a checksum.

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
from services.security.sealed_calls import checked, checking, sealing
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
        return cast("Channel", _CallingChannel(channel, self._signer, boot_id))

    def _rotating(self, opened: Callable[..., Channel], address: str, role: str, options: Options) -> Channel:
        # Whoever is there has to be of the role: its certificate has this name, at whatever address.
        named = (*options, ("grpc.ssl_target_name_override", self._tls.server_name(role)))

        def open_now() -> Channel:
            return opened(address, self._tls.channel(), options=named)

        return cast("Channel", RotatingChannel(open_now, lambda: self._tls.generation))


PLAIN = Dialer()


class _CallingChannel:
    """What stubs need of a channel. Without a signer, calls are not signed."""

    def __init__(self, channel: Any, signer: CallSigner | None, boot_id: str) -> None:
        self._channel, self._signer, self._boot_id = channel, signer, boot_id

    def unary_unary(self, method: str, **more: Any) -> Callable[..., Any]:
        return self._calling(self._channel.unary_unary, method, **more)

    def unary_stream(self, method: str, **more: Any) -> Callable[..., Any]:
        return self._calling(self._channel.unary_stream, method, **more)

    def stream_unary(self, method: str, **more: Any) -> Callable[..., Any]:
        return self._calling(self._channel.stream_unary, method, **more)

    def stream_stream(self, method: str, **more: Any) -> Callable[..., Any]:
        return self._calling(self._channel.stream_stream, method, **more)

    def _calling(
        self,
        make: Callable[..., Callable[..., Any]],
        method: str,
        request_serializer: Callable[[Any], bytes] | None = None,
        response_deserializer: Callable[[bytes], Any] | None = None,
        **more: Any,
    ) -> Callable[..., Any]:
        inner = make(
            method,
            request_serializer=sealing(request_serializer),
            response_deserializer=checking(method, response_deserializer),
            **more,
        )

        def call(*args: Any, metadata: Sequence[tuple[str, str]] = (), **more: Any) -> Any:
            if self._signer is not None:
                metadata = (*metadata, *self._signer.metadata(method, self._boot_id))
            return checked(inner(*args, metadata=metadata, **more))

        return call
