"""Writes the record: the event loop hands over what has ended, a thread makes lines of it and writes them.

Nothing here makes a request wait or fail. What cannot be written is counted and logged.
"""

from __future__ import annotations

import threading
import time
from array import array
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import structlog
from caracal_proto import attention_pb2

from services.router.recording.lines import Header, Recorded, Scored, header_line, request_line
from services.router.recording.metrics import RecordMetrics

log = structlog.get_logger(__name__)

MOST_WAITING_BYTES = 64 << 20  # of generations that have ended and are not written yet, about
LOG_S = 10.0  # between two log lines about what is lost
CLOSE_S = 5.0  # for what is left to be written
TOKEN_BYTES, SCORE_BYTES = 40, 150  # what each takes in memory, about

ClassParts = Callable[[str], Mapping[str, str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """The model whose answers are recorded. `parts`: those of a numerics class, as its workers have said."""

    model: str
    directory: Path
    parts: ClassParts


class LinesLike(Protocol):
    """Where lines are written: a RecordFile."""

    @property
    def opened(self) -> int: ...

    def make_room(self, size: int) -> None: ...

    def append(self, data: bytes) -> None: ...

    def close(self) -> None: ...


class GenerationLike(Protocol):
    """What is known of a generation when it has ended."""

    @property
    def attempts(self) -> int: ...

    @property
    def numerics_class(self) -> str | None: ...


class Recording:
    """The tokens of one generation, until it ends. For the event loop."""

    def __init__(
        self,
        recorder: Recorder,
        request_id: str,
        prompt_ids: Sequence[int],
        sampling: attention_pb2.Sampling,
        stop: Sequence[str],
    ) -> None:
        self._recorder, self._request_id = recorder, request_id
        self._prompt_ids, self._sampling, self._stop = prompt_ids, sampling, stop
        self._started = time.time()
        self._ids, self._checksums = array("I"), array("I")
        self._scores: list[Scored] | None = [] if sampling.logprobs else None
        self._prompt_scores: list[Scored] | None = [] if sampling.HasField("prompt_logprobs") else None
        self._finish_reason = ""
        self._stop_id: int | None = None

    def tokens(self, tokens: Sequence[attention_pb2.Token]) -> None:
        """Takes tokens that came."""
        for token in tokens:
            self._ids.append(token.id)
            self._checksums.append(token.logits_checksum)
        if self._scores is not None:
            self._scores += map(_scored, tokens)

    def batch(
        self,
        tokens: Sequence[attention_pb2.Token],
        prompt: Sequence[attention_pb2.Token],
        finish_reason: str,
        stop_id: int | None,
    ) -> None:
        """Takes what came together: tokens, scored tokens of the prompt, and the worker's finish reason if there is."""
        self.tokens(tokens)
        if self._prompt_scores is not None:
            self._prompt_scores += map(_scored, prompt)
        if finish_reason:
            self._finish_reason, self._stop_id = finish_reason, stop_id

    def end(self, generation: GenerationLike, ending: str, error: str = "") -> None:
        """Hands everything over; called once. `error`: the code of one that failed."""
        self._recorder.submit(
            Recorded(
                request_id=self._request_id,
                started=self._started,
                prompt_ids=self._prompt_ids,
                sampling=self._sampling,
                stop=self._stop,
                ids=self._ids,
                checksums=self._checksums,
                logprobs=self._scores,
                prompt_logprobs=self._prompt_scores,
                ending=ending,
                error=error,
                finish_reason=self._finish_reason,
                stop_id=self._stop_id,
                attempts=generation.attempts,
                numerics_class=generation.numerics_class or "",
            )
        )


class Recorder:
    """One router's record. The event loop calls `begin` and, through a Recording, `submit`."""

    def __init__(
        self,
        file: LinesLike,
        source: Source,
        metrics: RecordMetrics,
        most_waiting_bytes: int = MOST_WAITING_BYTES,
    ) -> None:
        self._most_waiting_bytes = most_waiting_bytes
        self._file, self._source, self._metrics = file, source, metrics
        self._waiting: deque[tuple[Recorded, Header | None, int]] = deque()
        self._waiting_bytes = 0
        self._changed = threading.Condition()
        self._closing = False
        self._headers: set[str] = set()  # classes whose header is in the file
        self._opened = 0  # the file that they are in
        self._quiet_until, self._unlogged = 0.0, 0
        self._thread = threading.Thread(target=self._run, name="record", daemon=True)
        self._thread.start()

    def begin(
        self, request_id: str, prompt_ids: Sequence[int], sampling: attention_pb2.Sampling, stop: Sequence[str]
    ) -> Recording:
        """A generation that begins."""
        return Recording(self, request_id, prompt_ids, sampling, stop)

    def submit(self, recorded: Recorded) -> None:
        """Takes a generation that has ended; counts it as lost when too much waits for the disk."""
        header = self._header(recorded.numerics_class) if recorded.numerics_class else None
        size = _size(recorded)
        with self._changed:
            full = self._waiting_bytes + size > self._most_waiting_bytes and bool(self._waiting)
            if not full:
                self._waiting.append((recorded, header, size))
                self._waiting_bytes += size
                self._changed.notify()
        if full:
            self._lose("queue", "the disk is too slow")

    def close(self) -> None:
        """Writes what is left, within CLOSE_S. Blocks."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(CLOSE_S)
        with self._changed:
            left = len(self._waiting)
            self._waiting.clear()
        for _ in range(left):
            self._lose("queue", "the router has ended")

    def _header(self, numerics_class: str) -> Header:
        return Header(
            model=self._source.model,
            directory=str(self._source.directory),
            numerics_class=numerics_class,
            numerics=self._source.parts(numerics_class),
        )

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closing)
                if not self._waiting:
                    break
                recorded, header, size = self._waiting.popleft()
            try:
                self._write(recorded, header)
            except (OSError, ValueError) as error:
                self._lose("disk", str(error))
            finally:
                with self._changed:
                    self._waiting_bytes -= size
        self._file.close()

    def _write(self, recorded: Recorded, header: Header | None) -> None:
        line = request_line(recorded)
        before = header_line(header) if header is not None else b""
        self._file.make_room(len(before) + len(line))
        if self._file.opened != self._opened:
            self._headers.clear()
            self._opened = self._file.opened
        if header is None or header.numerics_class in self._headers:
            before = b""
        self._file.append(before + line)
        if header is not None:
            self._headers.add(header.numerics_class)
        self._metrics.written.inc()
        self._metrics.bytes.inc(len(before) + len(line))

    def _lose(self, reason: str, why: str) -> None:
        self._metrics.dropped.labels(reason).inc()
        with self._changed:
            self._unlogged += 1
            now = time.monotonic()
            lost, due = self._unlogged, now >= self._quiet_until
            if due:
                self._quiet_until, self._unlogged = now + LOG_S, 0
        if due:
            log.warning("generations are missing in the record", reason=why, generations=lost)


def _scored(token: attention_pb2.Token) -> Scored:
    return Scored(token.logprob, tuple((one.id, one.logprob) for one in token.top), token.rank)


def _size(recorded: Recorded) -> int:
    scores = sum(1 + len(one.top) for some in (recorded.logprobs, recorded.prompt_logprobs) for one in some or ())
    tokens = len(recorded.prompt_ids) + len(recorded.ids)
    return TOKEN_BYTES * tokens + SCORE_BYTES * scores + len(recorded.sampling.grammar)
