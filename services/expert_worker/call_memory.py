"""Bounds what calls over gRPC take of the memory at once: by the size of a message, and by that of all replies."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from services.expert_worker.call_check import Expected
from services.transport.limits import MAX_ROWS
from services.transport.payload import payload_bytes

REPLY_BYTES = 256 << 20  # of all replies that are computed or sent; a larger one has it all for itself
COPIES = 5  # of a reply: computed, as bytes, in its message, in the message's bytes, and in gRPC's buffer
UNREAD_S = 5.0  # after that a session that does not read its reply ends, if others wait for the memory
FIELDS_BYTES = 64 << 10  # of a call beside its arrays
WORKERS_BYTES = 1 << 20  # of the workers that a table names
MAX_REPLICAS = 64  # of an expert


def largest_message(expected: Expected) -> int:
    """Bytes of the largest message that a worker of this model can be sent: a whole step's rows, or a table."""
    rows = payload_bytes(MAX_ROWS, expected.hidden, expected.dispatch_dtype)
    assignments = 2 * 4 * MAX_ROWS * expected.choices
    table = expected.layers * expected.experts * (1 + 2 * MAX_REPLICAS) + WORKERS_BYTES
    return max(rows + assignments, table) + FIELDS_BYTES


@dataclass(eq=False)
class Share:
    """One call's part of the memory. `end_session`: ends the session that does not read its reply."""

    size: int
    end_session: Callable[[], object]
    sent_at: float | None = None  # since when the caller has had its reply to read


class ReplyMemory:
    """The memory of all replies, handed out in the order in which it is asked for. Any thread may use it."""

    def __init__(self, limit: int = REPLY_BYTES, unread_s: float = UNREAD_S) -> None:
        self._limit, self._unread_s = limit, unread_s
        self._shares: set[Share] = set()
        self._waiting: deque[Share] = deque()
        self._changed = threading.Condition()

    def take(self, size: int, end_session: Callable[[], object]) -> Share:
        """Waits until there is memory for a reply of that size; it is to be given back."""
        share = Share(COPIES * size, end_session)
        with self._changed:
            self._waiting.append(share)
            try:
                while not self._fits(share):
                    self._end_unread()
                    self._changed.wait(self._unread_s / 4)
            finally:
                self._waiting.remove(share)
                self._changed.notify_all()
            self._shares.add(share)
        return share

    def sending(self, share: Share) -> None:
        """Notes that the caller is being sent its reply."""
        share.sent_at = time.monotonic()

    def give_back(self, share: Share) -> None:
        with self._changed:
            self._shares.discard(share)
            self._changed.notify_all()

    def _fits(self, share: Share) -> bool:
        used = sum(one.size for one in self._shares)
        return self._waiting[0] is share and (not used or used + share.size <= self._limit)

    def _end_unread(self) -> None:
        now = time.monotonic()
        for share in self._shares:
            if share.sent_at is not None and now - share.sent_at > self._unread_s:
                share.end_session()
