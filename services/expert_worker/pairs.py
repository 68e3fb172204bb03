"""The worker's side of pairs, from their rendezvous to the session that uses them."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

import grpc
import structlog
import torch
from caracal_proto import expert_pb2

from services.pair.group import HANDSHAKE_S, WORKER, Pair, PairBroken
from services.pair.store import MirrorStore

log = structlog.get_logger(__name__)

UNCLAIMED_S = 30.0  # a pair whose session has made no call by then belongs to a caller that is gone
MAX_PAYLOAD_BYTES = 1 << 30


@dataclass(slots=True)
class _Meeting:
    pair: Pair | None
    since: float


class Pairs:
    """Pairs between their rendezvous and the first call that names them. Any thread may use it."""

    def __init__(self, host: str, device: torch.device, limit: int = 128) -> None:
        self._host, self._device, self._limit = host, device, limit
        self._meetings: dict[int, _Meeting] = {}
        self._sessions: set[int] = set()  # those whose pair may still be asked for, however long they are silent
        self._lock = threading.Lock()

    def rendezvous(
        self, items: Iterator[expert_pb2.PairItem], context: grpc.ServicerContext
    ) -> Iterator[expert_pb2.PairItem]:
        """The Pair call: ends well when this side stands and calls may name it."""
        hello = next(items, expert_pb2.PairItem())
        refusal = self._admit(hello)
        if refusal:
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, refusal)
        store = MirrorStore(HANDSHAKE_S)
        errors: list[str] = []
        threading.Thread(target=store.follow, args=(items,), name="pair-store", daemon=True).start()
        threading.Thread(target=self._build, args=(hello, store, errors), name="pair", daemon=True).start()
        yield from store.outgoing()
        if errors:
            context.abort(grpc.StatusCode.UNAVAILABLE, errors[0])

    def enter(self, session: int) -> None:
        """A session has made its first call."""
        with self._lock:
            self._sessions.add(session)

    def leave(self, session: int) -> None:
        """A session has ended: nobody will claim its pair."""
        with self._lock:
            self._sessions.discard(session)
            meeting = self._meetings.pop(session, None)
        if meeting is not None and meeting.pair is not None:
            meeting.pair.abort()

    def claim(self, pair: int) -> Pair:
        """The session that names a pair owns it. Raises PairBroken."""
        with self._lock:
            meeting = self._meetings.pop(pair, None)
        if meeting is None or meeting.pair is None:
            raise PairBroken(f"there is no pair {pair:x}")
        return meeting.pair

    def close(self) -> None:
        with self._lock:
            meetings, self._meetings = self._meetings, {}
        for meeting in meetings.values():
            if meeting.pair is not None:
                meeting.pair.abort()

    def _admit(self, hello: expert_pb2.PairItem) -> str:
        """Why a pair is refused; empty when its meeting is noted."""
        now = time.monotonic()
        with self._lock:
            stale = [
                name
                for name, one in self._meetings.items()
                if name not in self._sessions and now - one.since > UNCLAIMED_S
            ]
            left = [self._meetings.pop(key).pair for key in stale]
            if not 0 < hello.max_bytes <= MAX_PAYLOAD_BYTES:
                refusal = f"a pair for calls of {hello.max_bytes} bytes"
            elif hello.on_device and self._device.type == "cpu":
                refusal = "NCCL is asked for, and this worker has no GPU"
            elif hello.pair in self._meetings:
                refusal = f"pair {hello.pair:x} is there already"
            elif len(self._meetings) >= self._limit:
                refusal = f"{len(self._meetings)} pairs wait for their first call"
            else:
                refusal = ""
                self._meetings[hello.pair] = _Meeting(None, now)
        for pair in left:
            if pair is not None:
                pair.abort()
        return refusal

    def _build(self, hello: expert_pb2.PairItem, store: MirrorStore, errors: list[str]) -> None:
        device = self._device if hello.on_device else torch.device("cpu")
        try:
            pair = Pair.meet(store, WORKER, hello.max_bytes, device, self._host)
        except PairBroken as error:
            log.info("no pair", reason=str(error))
            errors.append(str(error))
            with self._lock:
                self._meetings.pop(hello.pair, None)
        else:
            with self._lock:
                self._meetings[hello.pair] = _Meeting(pair, time.monotonic())
        finally:
            store.end()  # the call of the rendezvous waits for this
