"""Streams of messages between two runs: in order, until one end closes, dies, or the link is reset."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from simulation.network import Network
from simulation.timeline import Process


@dataclass(frozen=True, slots=True)
class _End:
    why: str


Receive = Callable[[Any], None]
DAMAGED = "what came is not what was sent"


class Stream:
    """`receive` and `ended` of each end are set by who owns it; `ended` is called once, with the reason, if the other
    end, or the link, has ended the stream."""

    def __init__(self, streams: Streams, one: Process, other: Process) -> None:
        self._streams = streams
        self.ends = one, other
        self._runs = one.runs, other.runs
        self.open = [True, True]
        self.cuttable = True
        self.why = ["", ""]  # each end's reason why it is open no more
        self.receive: list[Receive] = [lambda message: None, lambda message: None]
        self.ended: list[Callable[[str], None]] = [lambda why: None, lambda why: None]
        self._on_way: tuple[deque[Any], deque[Any]] = (deque(), deque())

    def send(self, end: int, message: Any) -> None:
        """Sends from one end to the other."""
        if self.open[end]:
            self._on_way[1 - end].append(message)
            self._streams.network.carry(self.ends[end].name, self.ends[1 - end].name, lambda: self._arrive(1 - end))

    def close(self, end: int, why: str = "") -> None:
        """Ends the stream from one end; what it has sent before arrives."""
        if self.open[end]:
            self.send(end, _End(why))
            self.open[end] = False
            self._on_way[end].clear()
            self._forget()

    def cut(self) -> None:
        """The link is reset: what is on its way is lost, and both ends notice."""
        for end in (0, 1):
            self._on_way[end].clear()
            if self.open[end]:
                self._on_way[end].append(_End("the connection was reset"))
                self._streams.network.carry(self.ends[1 - end].name, self.ends[end].name, partial(self._arrive, end))

    def _arrive(self, end: int) -> None:
        if self._on_way[end]:
            message = self._on_way[end].popleft()
            self.ends[end].do(self._runs[end], lambda: self._take(end, message))

    def _take(self, end: int, message: Any) -> None:
        if not self.open[end]:
            return
        damaged = self.cuttable and self._streams.network.damages(self.ends[1 - end].name, self.ends[end].name)
        if damaged and not isinstance(message, _End):
            self.close(end, DAMAGED)
            self.why[end] = DAMAGED
            self.ended[end](DAMAGED)
        elif isinstance(message, _End):
            self.open[end], self.why[end] = False, message.why
            self._forget()
            self.ended[end](message.why)
        else:
            self.receive[end](message)

    def _forget(self) -> None:
        if not any(self.open):
            self._streams.all.pop(self, None)


class Streams:
    """All that are open. They are kept in the order of their begins, so that a schedule's events are the same again."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.all: dict[Stream, None] = {}

    def begin(self, one: Process, other: Process) -> Stream:
        stream = Stream(self, one, other)
        self.all[stream] = None
        return stream

    def of(self, name: str) -> list[Stream]:
        """Those of attempts that a process has; clients are left alone."""
        return [one for one in self.all if name in (one.ends[0].name, one.ends[1].name) and one.cuttable]

    def died(self, process: Process) -> None:
        """The kernel of a process that was killed closes its ends."""
        for stream in [stream for stream in self.all if process in stream.ends]:
            stream.close(stream.ends.index(process))
