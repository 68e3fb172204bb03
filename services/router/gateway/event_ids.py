"""Numbers the events of a stream that its client may go on with, and leaves out those that it has already.

An event's id says how far every choice had come with it: the client's place in all of them, not in one.
"""

from __future__ import annotations

from collections.abc import Callable

from services.router.gateway.resumption import Resumption
from services.router.requests.choice_stream import ChoiceStream, TextDelta
from services.router.requests.replay import Position, Resumed, tag_of

Events = Callable[[TextDelta], bytes]
END = b"\n\n"


class EventIds:
    """The ids of one response's events."""

    def __init__(self, resumption: Resumption) -> None:
        self._head = f"{resumption.created:x}.{resumption.tag}"
        self._usage_sent = resumption.usage_sent
        self._choices: list[ChoiceEvents] = []

    def of(self, choice: ChoiceStream) -> ChoiceEvents:
        """Follows one choice; to be called for all, in their order, before the first event."""
        self._choices.append(ChoiceEvents(self, choice))
        return self._choices[-1]

    def mark(self, event: bytes, last: str = "") -> bytes:
        """An event with its id: an id belongs to the event whose lines it is among."""
        places = ".".join([choice.place for choice in self._choices])
        return f"id: {self._head}.{places}{last}\n".encode() + event

    def usage(self, event: bytes) -> bytes:
        """The event after all choices; empty when the client has it."""
        return b"" if self._usage_sent else self.mark(event, ".u")


class ChoiceEvents:
    """How much of one choice the client has."""

    def __init__(self, ids: EventIds, choice: ChoiceStream) -> None:
        self._ids, self._choice = ids, choice
        self._had = choice.resumed.position if choice.resumed is not None else Position()
        self._tokens, self._events, self._ended = 0, 0, False  # gone through; events of the last tokens that were had
        self._run, self._tags = "", ""
        self.place = _place(choice.resumed) if choice.resumed is not None else "0"

    def around(self, events: Events) -> Events:
        """The same events with their ids, without those that the client has."""

        def numbered(delta: TextDelta) -> bytes:
            had = self._skipped(len(delta.tokens))
            made = [event + END for event in events(delta).split(END)[:-1]]
            before, self._tokens = self._tokens, self._tokens + len(delta.tokens)
            ended = delta.finish_reason is not None
            if had is None:
                return b""
            self._see_worker()
            data = b""
            for number, event in enumerate(made, 1):
                if number == len(made):
                    self.place = f"{self._tokens}{'e' if ended else ''}{self._tags}"
                else:
                    # Where a stop string ends the answer the same tokens end it again; else the worker says so.
                    by_worker = ended and not self._choice.stopped_by_text
                    self.place = f"{before}-{len(delta.tokens)}-{number}{'e' if by_worker else ''}{self._tags}"
                if number > had:
                    data += self._ids.mark(event)
            return data

        return numbered

    def _skipped(self, tokens: int) -> int | None:
        """How many of the next delta's events the client has; None for all."""
        had = self._had
        if (had.ended and not had.events) or self._tokens < had.tokens:
            return None
        if had.events and not self._events:
            self._events = had.events
            return had.events
        return 0

    def _see_worker(self) -> None:
        if self._run != self._choice.boot_id:
            self._run = self._choice.boot_id
            self._tags = f"_{tag_of(self._choice.numerics_class)}_{tag_of(self._run)}"


def _place(resumed: Resumed) -> str:
    had = resumed.position
    group = f"-{had.group}-{had.events}" if had.events else ""
    tags = f"_{tag_of(resumed.numerics_class)}_{resumed.worker}" if resumed.numerics_class is not None else ""
    return f"{had.tokens}{group}{'e' if had.ended else ''}{tags}"
