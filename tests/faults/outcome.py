"""What came of schedules, as it is counted and as it is written."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from faults.history import Answer
from faults.network import role_of
from faults.schedule import Planned
from faults.traffic import Traffic, verdicts

ECHO_S = 2.0  # after a fault, in which a pause still counts as its own
WINDOW_S = 3.0  # without a fault, in which the longest pause is what a fault's is compared with
DIGITS = 4  # of seconds that are written


@dataclass(frozen=True, slots=True)
class Happened:
    """A fault, and when it was there, by the monotonic clock. `leads`: whether its target led the placement then."""

    planned: Planned
    begin: float
    end: float
    leads: bool


@dataclass
class Outcome:
    """`answers`: of all choices. `stalls`: the longest pause of any stream at each fault, by its kind and whom it hit;
    `calm`: in windows without one. `verdicts`: of answers that are not right and of schedules that stuck. `routers`:
    faults that hit a router, by whether it led. `turned_away`: how often a router sent a stream on to another one.
    `variants`: schedules by the cluster's."""

    schedules: int = 0
    requests: int = 0
    answers: int = 0
    tokens: int = 0
    refused: int = 0
    turned_away: int = 0
    overlapping: int = 0
    variants: Counter[str] = field(default_factory=Counter)
    routers: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    stalls: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    calm: list[float] = field(default_factory=list)
    verdicts: Counter[str] = field(default_factory=Counter)
    without_effect: list[str] = field(default_factory=list)
    left_behind: list[str] = field(default_factory=list)
    controls: list[str] = field(default_factory=list)  # that have not failed, and had to
    ended_alone: list[str] = field(default_factory=list)  # processes, as those do that stand still for too long

    @property
    def failures(self) -> list[str]:
        """All that is not as it should be."""
        verdicts = (f"{verdict}, {count} times" if count > 1 else verdict for verdict, count in self.verdicts.items())
        return [*verdicts, *self.without_effect, *self.left_behind, *self.controls]

    def count(self, verdict: str) -> int:
        """`lost`, `changed` or `stuck`."""
        return sum(count for one, count in self.verdicts.items() if one.startswith(verdict))

    def note(self, seed: int, traffic: Traffic, happened: Sequence[Happened], overlapping: int) -> None:
        """Takes what came of a schedule, as soon as its requests have ended."""
        requests, unanswered = traffic.finish(), traffic.unanswered
        answers = [answer for choices in requests for answer in choices]
        self.overlapping += overlapping
        self.requests, self.answers = self.requests + len(requests), self.answers + len(answers)
        self.tokens += sum(answer.tokens for answer in answers)
        self.refused, self.turned_away = self.refused + traffic.refused.total(), self.turned_away + traffic.turned_away
        self.verdicts.update(f"{verdict} (seed {seed})" for verdict in (*verdicts(requests), *unanswered))
        for one in happened:
            self.faults[one.planned.kind] += 1
            if any(role_of(node) == "router" for node in one.planned.nodes) and one.planned.kind != "overload":
                self.routers["leads" if one.leads else "does not lead"] += 1
            self.stalls[f"{one.planned.kind}, {hit(one.planned)}"].append(longest(answers, one.begin, one.end + ECHO_S))

    def note_calm(self, requests: Sequence[Sequence[Answer]]) -> None:
        """Takes traffic without a fault."""
        answers = [answer for choices in requests for answer in choices]
        times = [time for answer in answers for time in answer.times]
        self.verdicts.update(f"{verdict} (no fault)" for verdict in verdicts(requests))
        begin = min(times, default=0.0)
        while times and begin + WINDOW_S <= max(times):
            self.calm.append(longest(answers, begin, begin + WINDOW_S))
            begin += WINDOW_S

    def add(self, other: Outcome) -> None:
        """Takes what came of other schedules."""
        for one in fields(self):
            mine, its = getattr(self, one.name), getattr(other, one.name)
            if isinstance(mine, Counter):
                mine.update(its)
            elif isinstance(mine, dict):
                for what, stalls in its.items():
                    mine[what] += stalls
            else:
                setattr(self, one.name, mine + its)

    def written(self) -> dict[str, Any]:
        """For a JSON file."""
        found: dict[str, Any] = {name: self.count(name) for name in ("lost", "changed", "stuck")}
        found |= {one.name: getattr(self, one.name) for one in fields(self)}
        stalls = {what: [round(one, DIGITS) for one in each] for what, each in sorted(self.stalls.items())}
        return found | {"stalls": stalls, "calm": [round(one, DIGITS) for one in self.calm]}

    @classmethod
    def read(cls, found: Mapping[str, Any]) -> Outcome:
        """What `written` has given."""
        made = cls(**{one.name: found[one.name] for one in fields(cls)})
        for name in ("variants", "routers", "faults", "verdicts"):
            setattr(made, name, Counter(getattr(made, name)))
        made.stalls = defaultdict(list, made.stalls)
        return made


def longest(answers: Sequence[Answer], begin: float, end: float) -> float:
    """The longest pause of any stream each token of which comes by itself."""
    streams = (answer for answer in answers if not answer.oracle.texts)
    return max((pause for answer in streams for pause in answer.pauses(begin, end)), default=0.0)


def hit(planned: Planned) -> str:
    """Whom a fault hits, in a word."""
    roles = {role_of(node) for node in planned.nodes}
    return "machine" if len(roles) > 1 else next(iter(roles))


def quantile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
