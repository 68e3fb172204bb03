"""What the client pod has printed: the answers of every caller, whole or named as missing."""

from __future__ import annotations

import json
import statistics
from dataclasses import dataclass

GRPC_CALLERS, HTTP_CALLERS = 8, 2
CALLERS = tuple(f"grpc-{n}" for n in range(GRPC_CALLERS)) + tuple(f"http-{n}" for n in range(HTTP_CALLERS))


@dataclass(frozen=True)
class Answer:
    """One request: the digest of its answer, or the error; and the milliseconds from its start to each token.

    `number`: how many the caller had sent before. `started`: seconds since 1970.
    """

    caller: str
    number: int
    digest: str
    error: str
    started: float
    token_times: tuple[float, ...]

    @property
    def stalls(self) -> list[float]:
        """Milliseconds between tokens, beginning with the time to the first token."""
        return [b - a for a, b in zip((0.0, *self.token_times), self.token_times, strict=False)]


@dataclass(frozen=True)
class Stalls:
    """Number of requests, and milliseconds between two tokens of a stream; first tokens are counted separately."""

    requests: int
    failed: int
    p50: float
    p99: float
    worst: float
    worst_first: float

    @classmethod
    def of(cls, answers: list[Answer]) -> Stalls:
        between = sorted(stall for answer in answers for stall in answer.stalls[1:]) or [0.0]
        firsts = [answer.stalls[0] for answer in answers if answer.token_times] or [0.0]
        return cls(
            requests=len(answers),
            failed=sum(bool(answer.error) for answer in answers),
            p50=statistics.median(between),
            p99=between[min(len(between) - 1, int(0.99 * len(between)))],
            worst=between[-1],
            worst_first=max(firsts),
        )


class Records:
    """Collects them over several readings of the log: the kubelet rotates it, and then only the newest part is read."""

    def __init__(self) -> None:
        self._answers: dict[tuple[str, int], Answer] = {}
        self._sent: dict[str, int] = {}  # how many a caller has sent in all, which it prints last

    def read(self, log: str) -> None:
        """Takes in what the log has; anything but whole records, such as a traceback, is left out."""
        for line in log.splitlines():
            if not (line.startswith("{") and line.endswith("}")):
                continue
            record = json.loads(line)
            if "sent" in record:
                self._sent[record["caller"]] = record["sent"]
            else:
                answer = Answer(**{**record, "token_times": tuple(record["token_times"])})
                self._answers[answer.caller, answer.number] = answer

    def counts(self) -> dict[str, int]:
        """Answers so far of every caller, of those without one, too."""
        return {caller: sum(one == caller for one, _ in self._answers) for caller in CALLERS}

    def missing(self) -> str:
        """Names what was not read though it was printed, or should have been; empty when everything was."""
        silent = [caller for caller in CALLERS if caller not in self._sent]
        if silent:
            return f"these callers have not ended: {', '.join(silent)}"
        for caller, sent in self._sent.items():
            if not sent:
                return f"{caller} has sent nothing"
            lost = [number for number in range(sent) if (caller, number) not in self._answers]
            if lost:
                return f"{caller} has sent {sent} requests, and of {len(lost)} nothing was read: {lost[:5]}"
        return ""

    def answers(self) -> list[Answer]:
        """All, in the order in which they began."""
        return sorted(self._answers.values(), key=lambda answer: answer.started)
