"""One attempt at a generation, at one attention worker."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import grpc
from caracal_proto import attention_pb2

from services.router.requests.worker_choice import AttentionWorkerView

if TYPE_CHECKING:
    from opentelemetry.trace import Span


class AttemptFailed(Exception):
    """An attempt's end without a finish reason, with the gRPC status that the worker or the connection gave.

    `lost`: not the attempt but the worker's whole stream ended, as it does when the worker dies.
    """

    def __init__(self, code: grpc.StatusCode, details: str, *, lost: bool = False) -> None:
        super().__init__(f"{code.name}: {details}")
        self.code, self.details, self.lost = code, details, lost


class Attempt:
    """Has one reader. `last_event_at` is a time of the monotonic clock.

    An attempt that is `abandoned` may go on elsewhere; one that has `expired` ends its request. Once `complete`, it
    needs its worker no more. `cancel` is called when it is given up before, `finished` when the worker has come to its
    end, whether that has been read or not. It is `implicated` in a failure before which it has brought nothing, or
    that was of no other attempt of this router: its request may well be the reason.
    """

    def __init__(self, worker: AttentionWorkerView, number: int, cancel: Callable[[], None]) -> None:
        self.worker = worker
        self.number = number
        self.span: Span | None = None  # set where the attempt is traced
        self.last_event_at = time.monotonic()
        self.abandoned = self.expired = self.complete = False
        self.implicated, self._received = False, False
        self.direct: Callable[[attention_pb2.GenerateEvent], bool] | None = None  # takes an event before any reader
        self.finished: Callable[[], None] = lambda: None
        self._cancel = cancel
        self._events: asyncio.Queue[attention_pb2.GenerateEvent | Exception | None] = asyncio.Queue()

    async def read(self) -> attention_pb2.GenerateEvent | None:
        """Returns the next event; None after the last, and at once after `abandon`.

        Raises AttemptFailed, and what `direct` raised.
        """
        event = await self._events.get()
        self.last_event_at = time.monotonic()
        if self.abandoned:
            return None
        if isinstance(event, Exception):
            raise event
        return event

    def arrive(self, event: attention_pb2.GenerateEvent) -> None:
        """Takes an event from the worker."""
        self.last_event_at, self._received = time.monotonic(), True
        if self.direct is not None and not event.finish_reason and self._events.empty():
            try:
                if self.direct(event):
                    return
            except Exception as error:  # noqa: BLE001 - of one request: the others on this stream go on
                self._events.put_nowait(error)
                return
        self._events.put_nowait(event)
        if event.finish_reason and not self.complete:
            self.complete = True
            self._events.put_nowait(None)
            self.finished()

    def fail(self, failed: AttemptFailed, alone: bool = False) -> None:
        """Takes a failure from the worker or the connection, to be read after the events that came before. `alone`: no
        other attempt was open."""
        if not self.complete:
            self.implicated = alone or not self._received
            self.complete = True
            self._events.put_nowait(failed)

    def abandon(self) -> None:
        """Gives the worker up; `read` ends at once."""
        self.abandoned = True
        self._events.put_nowait(None)
        self.cancel()

    def expire(self) -> None:
        """Gives the request up, for want of progress; `read` ends at once."""
        self.expired = True
        self.abandon()

    def cancel(self) -> None:
        """Tells the worker to stop, unless it has ended."""
        if not self.complete:
            self.complete = True
            self._cancel()
