"""The expert worker's P2P groups, from their rendezvous to the session that uses them."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from queue import Empty, SimpleQueue

import grpc
import structlog
import torch
from caracal_proto import expert_pb2

from services.process.grpc_server import abort_call
from services.transport.p2p_group import HANDSHAKE_S, WORKER, P2PBroken, P2PGroup
from services.transport.rendezvous_store import MirrorStore

log = structlog.get_logger(__name__)

UNCLAIMED_S = 30.0  # a group whose session has made no call by then belongs to a caller that is gone
FIRST_ITEM_S = 2.0  # how long a rendezvous waits for the caller's first item
MAX_RENDEZVOUS = 32  # at the same time; one takes some 20 ms


@dataclass(slots=True)
class _Rendezvous:
    p2p: P2PGroup | None  # None until it is connected
    since: float


class P2PRegistry:
    """Connects P2P groups and keeps each until the first call of its session claims it. Any thread may use it.

    A group has the id of its session. `max_bytes` is the largest payload of a call of this model, `limit` the largest
    number of sessions.
    """

    def __init__(self, host: str, device: torch.device, max_bytes: int, limit: int = 128) -> None:
        self._host, self._device, self._max_bytes, self._limit = host, device, max_bytes, limit
        self._free = threading.Semaphore(min(limit, MAX_RENDEZVOUS))
        self._rendezvous: dict[int, _Rendezvous] = {}
        self._sessions: set[int] = set()  # that have made a call: their groups do not expire
        self._lock = threading.Lock()

    def rendezvous(
        self, items: Iterator[expert_pb2.RendezvousItem], context: grpc.ServicerContext
    ) -> Iterator[expert_pb2.RendezvousItem]:
        """Serves the Rendezvous RPC: it ends with OK once this side is connected and calls may name the group.

        It takes a few steps of at most HANDSHAKE_S each, whatever the caller does.
        """
        if not self._free.acquire(blocking=False):
            abort_call(context, grpc.StatusCode.RESOURCE_EXHAUSTED, "too many rendezvous at once")
        store, errors = MirrorStore(HANDSHAKE_S, WORKER), list[str]()
        try:
            hello = self._hello(items, store, context)
            threading.Thread(target=self._connect, args=(hello, store, errors), name="p2p-connect", daemon=True).start()
        except BaseException:
            self._free.release()
            raise
        yield from store.outgoing()
        if errors:
            abort_call(context, grpc.StatusCode.UNAVAILABLE, errors[0])

    def _hello(
        self, items: Iterator[expert_pb2.RendezvousItem], store: MirrorStore, context: grpc.ServicerContext
    ) -> expert_pb2.RendezvousItem:
        """The caller's first item, admitted; the items after it go to the store. Aborts the RPC when it is rejected."""
        first: SimpleQueue[expert_pb2.RendezvousItem] = SimpleQueue()
        threading.Thread(target=_listen, args=(items, first, store), name="p2p-store", daemon=True).start()
        try:
            hello = first.get(timeout=FIRST_ITEM_S)
        except Empty:
            abort_call(context, grpc.StatusCode.DEADLINE_EXCEEDED, f"no item was received within {FIRST_ITEM_S:g} s")
        reason = self._admit(hello)
        if reason:
            abort_call(context, grpc.StatusCode.FAILED_PRECONDITION, reason)
        return hello

    def enter(self, session: int) -> None:
        """Notes that a session has made its first call: its group does not expire any more."""
        with self._lock:
            self._sessions.add(session)

    def leave(self, session: int) -> None:
        """Notes that a session has ended, and ends its group if nobody has claimed it."""
        with self._lock:
            self._sessions.discard(session)
            rendezvous = self._rendezvous.pop(session, None)
        if rendezvous is not None and rendezvous.p2p is not None:
            rendezvous.p2p.abort()

    def claim(self, group: int) -> P2PGroup:
        """Gives a connected group to its session, which must end it. Raises P2PBroken when there is none."""
        with self._lock:
            rendezvous = self._rendezvous.pop(group, None)
        if rendezvous is None or rendezvous.p2p is None:
            raise P2PBroken(f"there is no P2P group {group:x}")
        return rendezvous.p2p

    def close(self) -> None:
        with self._lock:
            all_rendezvous, self._rendezvous = self._rendezvous, {}
        for rendezvous in all_rendezvous.values():
            if rendezvous.p2p is not None:
                rendezvous.p2p.abort()

    def _admit(self, hello: expert_pb2.RendezvousItem) -> str:
        """Registers a rendezvous and returns "", or returns why it is rejected. Ends groups that have expired."""
        now = time.monotonic()
        with self._lock:
            expired = [
                group
                for group, one in self._rendezvous.items()
                if group not in self._sessions and now - one.since > UNCLAIMED_S
            ]
            unclaimed = [self._rendezvous.pop(group).p2p for group in expired]
            if not 0 < hello.max_bytes <= self._max_bytes:
                reason = f"a P2P group for calls of {hello.max_bytes} bytes, the limit is {self._max_bytes}"
            elif hello.on_device and self._device.type == "cpu":
                reason = "NCCL is asked for, and this worker has no GPU"
            elif hello.group in self._rendezvous:
                reason = f"P2P group {hello.group:x} exists already"
            elif len(self._rendezvous) >= self._limit:
                reason = f"{len(self._rendezvous)} P2P groups wait for their first call"
            else:
                reason = ""
                self._rendezvous[hello.group] = _Rendezvous(None, now)
        for p2p in unclaimed:
            if p2p is not None:
                p2p.abort()
        return reason

    def _connect(self, hello: expert_pb2.RendezvousItem, store: MirrorStore, errors: list[str]) -> None:
        device = self._device if hello.on_device else torch.device("cpu")
        try:
            p2p = P2PGroup.connect(store, WORKER, hello.max_bytes, device, self._host)
        except P2PBroken as error:
            log.info("P2P connect failed", reason=str(error))
            errors.append(str(error))
            with self._lock:
                self._rendezvous.pop(hello.group, None)
        else:
            with self._lock:
                self._rendezvous[hello.group] = _Rendezvous(p2p, time.monotonic())
        finally:
            self._free.release()  # not at the end of the RPC: gloo goes on for seconds after a caller has hung up
            store.end()  # the Rendezvous RPC waits for this


def _listen(
    items: Iterator[expert_pb2.RendezvousItem], first: SimpleQueue[expert_pb2.RendezvousItem], store: MirrorStore
) -> None:
    """Puts the caller's first item into `first` and the others into the store. A silent caller blocks this thread."""
    try:
        first.put(next(items, expert_pb2.RendezvousItem()))
    except grpc.RpcError:
        return  # the RPC has ended
    store.follow(items)
