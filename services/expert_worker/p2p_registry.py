"""The worker's side of pairs, from their rendezvous to the session that uses them."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import NoReturn

import grpc
import structlog
import torch
from caracal_proto import expert_pb2

from services.transport.p2p_group import HANDSHAKE_S, WORKER, P2PBroken, P2PGroup
from services.transport.rendezvous_store import MirrorStore

log = structlog.get_logger(__name__)

UNCLAIMED_S = 30.0  # a pair whose session has made no call by then belongs to a caller that is gone
FIRST_ITEM_S = 2.0  # a rendezvous whose caller has not said by then what it wants is over
AT_ONCE = 32  # rendezvous; one takes some 20 ms


@dataclass(slots=True)
class _Rendezvous:
    pair: P2PGroup | None
    since: float


class P2PRegistry:
    """P2P groups between their rendezvous and the first call that names them. Any thread may use it.

    `max_bytes` is the most that a call of this model can carry, `limit` how many sessions there may be.
    """

    def __init__(self, host: str, device: torch.device, max_bytes: int, limit: int = 128) -> None:
        self._host, self._device, self._max_bytes, self._limit = host, device, max_bytes, limit
        self._free = threading.Semaphore(min(limit, AT_ONCE))
        self._rendezvous: dict[int, _Rendezvous] = {}
        self._sessions: set[int] = set()  # those whose pair may still be asked for, however long they are silent
        self._lock = threading.Lock()

    def rendezvous(
        self, items: Iterator[expert_pb2.RendezvousItem], context: grpc.ServicerContext
    ) -> Iterator[expert_pb2.RendezvousItem]:
        """The Rendezvous call: ends well when this side stands and calls may name it.

        It takes some steps of HANDSHAKE_S at most, whatever the caller does.
        """
        if not self._free.acquire(blocking=False):
            _refuse(context, grpc.StatusCode.RESOURCE_EXHAUSTED, "too many rendezvous at once")
        store, errors = MirrorStore(HANDSHAKE_S, WORKER), list[str]()
        try:
            hello = self._hello(items, store, context)
            threading.Thread(target=self._build, args=(hello, store, errors), name="pair", daemon=True).start()
        except BaseException:
            self._free.release()
            raise
        yield from store.outgoing()
        if errors:
            _refuse(context, grpc.StatusCode.UNAVAILABLE, errors[0])

    def _hello(
        self, items: Iterator[expert_pb2.RendezvousItem], store: MirrorStore, context: grpc.ServicerContext
    ) -> expert_pb2.RendezvousItem:
        """What the caller asks for, which is granted; the store follows what it says from then on."""
        first: SimpleQueue[expert_pb2.RendezvousItem] = SimpleQueue()
        threading.Thread(target=_listen, args=(items, first, store), name="pair-store", daemon=True).start()
        try:
            hello = first.get(timeout=FIRST_ITEM_S)
        except Empty:
            _refuse(context, grpc.StatusCode.DEADLINE_EXCEEDED, f"nothing was said within {FIRST_ITEM_S:g} s")
        refusal = self._admit(hello)
        if refusal:
            _refuse(context, grpc.StatusCode.FAILED_PRECONDITION, refusal)
        return hello

    def enter(self, session: int) -> None:
        """A session has made its first call."""
        with self._lock:
            self._sessions.add(session)

    def leave(self, session: int) -> None:
        """A session has ended: nobody will claim its pair."""
        with self._lock:
            self._sessions.discard(session)
            rendezvous = self._rendezvous.pop(session, None)
        if rendezvous is not None and rendezvous.pair is not None:
            rendezvous.pair.abort()

    def claim(self, pair: int) -> P2PGroup:
        """The session that names a pair owns it. Raises P2PBroken."""
        with self._lock:
            rendezvous = self._rendezvous.pop(pair, None)
        if rendezvous is None or rendezvous.pair is None:
            raise P2PBroken(f"there is no pair {pair:x}")
        return rendezvous.pair

    def close(self) -> None:
        with self._lock:
            all_rendezvous, self._rendezvous = self._rendezvous, {}
        for rendezvous in all_rendezvous.values():
            if rendezvous.pair is not None:
                rendezvous.pair.abort()

    def _admit(self, hello: expert_pb2.RendezvousItem) -> str:
        """Why a pair is refused; empty when its rendezvous is noted."""
        now = time.monotonic()
        with self._lock:
            stale = [
                name
                for name, one in self._rendezvous.items()
                if name not in self._sessions and now - one.since > UNCLAIMED_S
            ]
            left = [self._rendezvous.pop(key).pair for key in stale]
            if not 0 < hello.max_bytes <= self._max_bytes:
                refusal = f"a pair for calls of {hello.max_bytes} bytes, of {self._max_bytes} at most"
            elif hello.on_device and self._device.type == "cpu":
                refusal = "NCCL is asked for, and this worker has no GPU"
            elif hello.group in self._rendezvous:
                refusal = f"pair {hello.group:x} is there already"
            elif len(self._rendezvous) >= self._limit:
                refusal = f"{len(self._rendezvous)} pairs wait for their first call"
            else:
                refusal = ""
                self._rendezvous[hello.group] = _Rendezvous(None, now)
        for pair in left:
            if pair is not None:
                pair.abort()
        return refusal

    def _build(self, hello: expert_pb2.RendezvousItem, store: MirrorStore, errors: list[str]) -> None:
        device = self._device if hello.on_device else torch.device("cpu")
        try:
            pair = P2PGroup.meet(store, WORKER, hello.max_bytes, device, self._host)
        except P2PBroken as error:
            log.info("no pair", reason=str(error))
            errors.append(str(error))
            with self._lock:
                self._rendezvous.pop(hello.group, None)
        else:
            with self._lock:
                self._rendezvous[hello.group] = _Rendezvous(pair, time.monotonic())
        finally:
            self._free.release()  # here: gloo goes on for seconds after a caller has hung up
            store.end()  # the call of the rendezvous waits for this


def _listen(
    items: Iterator[expert_pb2.RendezvousItem], first: SimpleQueue[expert_pb2.RendezvousItem], store: MirrorStore
) -> None:
    """The first item for who waits for it, the others for the store. A thread of its own: a mute caller blocks it."""
    try:
        first.put(next(items, expert_pb2.RendezvousItem()))
    except grpc.RpcError:
        return  # the call is over
    store.follow(items)


def _refuse(context: grpc.ServicerContext, code: grpc.StatusCode, why: str) -> NoReturn:
    context.abort(code, why)
    raise AssertionError("abort raises")
