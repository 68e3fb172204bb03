"""How much of a prompt each attention worker has cached, as far as this router can tell. Pure: no clock, no I/O.

Two things tell it: the workers' own hints, seconds old, and where this router has sent prompts since. Both may
be wrong, which costs the computation of a prompt that another worker has cached, and nothing else.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from services.prefixes.page_hint import PageHint

SENT_S = 30.0  # for so long a prompt that was sent to a worker counts as cached there; its hint tells by then
MOST_SENT = 1 << 13  # pages that are remembered of each worker
SHORT_NAME = 8  # bytes


@dataclass(slots=True)
class _Worker:
    hint: PageHint
    sent: OrderedDict[bytes, float] = field(default_factory=OrderedDict)  # short name of a page -> when


class PrefixHints:
    """What one router knows of the workers' caches. Times are of one monotonic clock."""

    def __init__(self) -> None:
        self._workers: dict[str, _Worker] = {}

    def update(self, hints: Mapping[str, PageHint]) -> None:
        """Takes the workers' hints, by worker id. What was sent to a run that has ended is forgotten."""
        before, self._workers = self._workers, {}
        for worker_id, hint in hints.items():
            known = before.get(worker_id)
            if known is not None and known.hint.boot_id == hint.boot_id:
                known.hint = hint
                self._workers[worker_id] = known
            else:
                self._workers[worker_id] = _Worker(hint)

    @property
    def known(self) -> int:
        """How many workers have given a hint."""
        return len(self._workers)

    def page_size(self, worker_id: str, boot_id: str) -> int:
        """Tokens of a page at that run of a worker; 0 when it has given no hint."""
        worker = self._workers.get(worker_id)
        return worker.hint.page_size if worker is not None and worker.hint.boot_id == boot_id else 0

    def cached(self, worker_id: str, names: Sequence[bytes], now: float) -> int:
        """How many of a prompt's pages, from the first one on, the worker seems to have."""
        worker = self._workers.get(worker_id)
        if worker is None:
            return 0
        for count, name in enumerate(names):
            at = worker.sent.get(name[:SHORT_NAME])
            if name not in worker.hint.pages and (at is None or at < now - SENT_S):
                return count
        return len(names)

    def sent(self, worker_id: str, names: Iterable[bytes], now: float) -> None:
        """Notes that a prompt with these pages goes to the worker."""
        worker = self._workers.get(worker_id)
        if worker is None:
            return
        for name in names:
            worker.sent[name[:SHORT_NAME]] = now
            worker.sent.move_to_end(name[:SHORT_NAME])
        while len(worker.sent) > MOST_SENT:
            worker.sent.popitem(last=False)
