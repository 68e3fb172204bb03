"""The c10d store for the rendezvous of one P2P group: each side keeps a copy and sends what it sets to the other.

It runs over the group's Rendezvous gRPC stream, so it needs no port, nobody else can write to it, and a peer that dies
during the handshake ends the wait at once. It is dropped after the handshake.

The other side is not trusted: it may set only its own few keys, each once and of at most MAX_VALUE_BYTES, and values
are checked before gloo or NCCL reads them.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from datetime import timedelta
from queue import SimpleQueue

import grpc
from caracal_proto import expert_pb2
from torch.distributed.distributed_c10d import Store

from services.transport.rendezvous_check import invalid_reason

GROUPS = ("dispatch", "combine")
MAX_VALUE_BYTES = 512  # gloo's value takes 168 and the host name


class MirrorStore(Store):
    """The part of c10d's Store that gloo and NCCL use to connect. `rank` is this side's."""

    def __init__(self, timeout_s: float, rank: int) -> None:
        super().__init__()
        self._timeout_s = timeout_s
        # With gloo each of the two ranks sets one key; with NCCL rank 0 sets the communicator's id.
        self._ours = {f"{group}/0/{1 - rank}": f"{group}/0/{rank}" for group in GROUPS}
        self._theirs = {*self._ours, *(f"{group}/0" for group in GROUPS if rank == 1)}
        self._items: dict[str, bytes] = {}
        self._changed = threading.Condition()
        self._outbox: SimpleQueue[expert_pb2.RendezvousItem | None] = SimpleQueue()
        self._over = ""

    def outgoing(self, first: expert_pb2.RendezvousItem | None = None) -> Iterator[expert_pb2.RendezvousItem]:
        """The items that this side sends: `first`, then whatever is set here, until `end`."""
        if first is not None:
            yield first
        yield from iter(self._outbox.get, None)

    def follow(self, items: Iterable[expert_pb2.RendezvousItem]) -> None:
        """Stores what the other side sets until its stream ends; after that every `wait` here fails at once."""
        why = "the other side has ended the rendezvous"
        try:
            for item in items:
                with self._changed:
                    if item.key not in self._theirs or item.key in self._items or len(item.value) > MAX_VALUE_BYTES:
                        why = f"{len(item.value)} bytes for key {item.key[:64]!r} do not belong here"
                        break
                    self._items[item.key] = item.value
                    self._changed.notify_all()
        except grpc.RpcError as error:
            why = f"{error.code().name}: {error.details()}" if isinstance(error, grpc.Call) else str(error)
        with self._changed:
            self._over = why
            self._changed.notify_all()

    def end(self) -> None:
        """Ends `outgoing`."""
        self._outbox.put(None)

    # c10d calls the methods below; it sets their names and types.

    def set(self, key: str, value: str | bytes) -> None:
        data = value.encode() if isinstance(value, str) else bytes(value)
        with self._changed:
            self._items[key] = data
            self._changed.notify_all()
        self._outbox.put(expert_pb2.RendezvousItem(key=key, value=data))

    def get(self, key: str) -> bytes:
        self.wait([key])
        value = self._items[key]
        if key in self._theirs:
            reason = invalid_reason(value, self._items.get(self._ours.get(key, "")))
            if reason:
                raise RuntimeError(f"{key}: {reason}")
        return value

    def wait(self, keys: list[str], timeout: timedelta | None = None) -> None:
        """Raises RuntimeError, as c10d's own stores do."""
        seconds = min(self._timeout_s, timeout.total_seconds()) if timeout else self._timeout_s
        with self._changed:
            self._changed.wait_for(lambda: self._over or self.check(keys), seconds)
            if not self.check(keys):
                raise RuntimeError(self._over or f"the other side did not come to the rendezvous within {seconds:g} s")

    def check(self, keys: list[str]) -> bool:
        return all(key in self._items for key in keys)

    def delete_key(self, key: str) -> bool:
        return self._items.pop(key, None) is not None

    def has_extended_api(self) -> bool:
        return False
