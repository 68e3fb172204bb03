"""How far the model was off where the truth is published, by kind of question: how sure an answer is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from services.planner.published import rows
from services.planner.rows import Kind, Profiles, Row, Use


@dataclass(frozen=True, slots=True)
class Judged:
    """A row with what the model says. `error`: a share of the published value, or points where that is relative."""

    row: Row
    predicted: float
    error: float

    @property
    def log_ratio(self) -> float:
        """ln(predicted / published): as far from 0 for half of what is published as for twice that."""
        return math.log(self._times(self.predicted) / self._times(self.row.published))

    @property
    def right_sign(self) -> bool:
        """Whether the model says, too, that separating wins or loses."""
        return (self._times(self.predicted) > 1) == (self._times(self.row.published) > 1)

    def _times(self, value: float) -> float:
        return 1 + value / 100 if self.row.relative else value


@dataclass(frozen=True, slots=True)
class Sureness:
    """Errors of one kind of question where nothing was fitted, as factors: 1.2 is 20 % more, or as much less.

    `typical`: e to the root of the mean square of logarithms. `under`, `over`: the worst in each direction; 1: none.
    """

    kind: Kind
    typical: float
    under: float
    over: float
    tested: int


def judge(profiles: Profiles, asked: Sequence[Row] | None = None) -> list[Judged]:
    found = []
    for row in rows() if asked is None else asked:
        predicted = row.predict(profiles)
        error = (predicted - row.published) / 100 if row.relative else predicted / row.published - 1
        found.append(Judged(row, predicted, error))
    return found


def sureness(judged: Sequence[Judged], kind: Kind) -> Sureness:
    """Only rows that nothing was fitted on count."""
    logs = [one.log_ratio for one in judged if one.row.kind == kind and one.row.use == "tested"]
    typical = math.sqrt(math.fsum(each**2 for each in logs) / max(1, len(logs)))
    under, over = max([0.0, *(-each for each in logs)]), max([0.0, *logs])
    return Sureness(kind, math.exp(typical), math.exp(under), math.exp(over), len(logs))


def decisive(judged: Sequence[Judged], *, apart: bool) -> float:
    """The factor by which one way has to be ahead of the other, for the model's own errors not to undo that.

    The worst error of a gain in the direction that would, where nothing was fitted; at least what the rates of both
    ways are typically off by. `apart`: separate pools are ahead.
    """
    gain = sureness(judged, "gain of separating")
    rates = (math.log(sureness(judged, kind).typical) for kind in ("separate", "colocated"))
    return max(gain.over if apart else gain.under, math.exp(math.hypot(*rates)))


def signs(judged: Sequence[Judged], use: Use) -> tuple[int, int]:
    """How often the model agrees that separating wins or loses, and of how many rows of that use."""
    gains = [one for one in judged if one.row.kind == "gain of separating" and one.row.use == use]
    return sum(one.right_sign for one in gains), len(gains)
