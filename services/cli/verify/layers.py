"""Finds the layer at which two clusters begin to differ: both compute the same ids anew, layer by layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from services.cli.verify.compare import Difference
from services.cli.verify.logs import Entry
from services.cli.verify.replay import CannotReplay, Cluster, Rows, layer_rows


@dataclass(frozen=True, slots=True)
class Located:
    """What two clusters gave for the same ids. `number`: 0 for the embedding, then 1 for layer 0; None where no row
    differs. `position`: the first at which that layer's rows differ. `logits`: whether those differ. `same`: whether
    the cluster that was verified now gives what was recorded, and whether the reference does."""

    number: int | None
    position: int | None
    logits: bool
    same: bool
    reference_same: bool

    @property
    def words(self) -> str:
        """What was found, in one sentence."""
        if not self.reference_same:
            return "no layer can be named: the reference does not give what was recorded either"
        if self.number is not None:
            layer = f"layer {self.number - 1}" if self.number else "the embedding"
            return f"first differs at {layer} (at position {self.position})"
        if self.logits:
            return "no layer differs, the logits do: the final norm or the head"
        if self.same:
            return "computed anew by itself it gives what was recorded: the cache, or what ran beside it, differed"
        return "no layer differs"

    @property
    def values(self) -> dict[str, Any]:
        """The same for programs."""
        layer = None if self.number is None else self.number - 1  # -1: the embedding
        return {"layer": layer, "position": self.position, "logits_differ": self.logits, "words": self.words}


async def locate(cluster: Cluster, reference: Cluster, entry: Entry, difference: Difference) -> Located:
    """Computes the ids up to the difference on a worker of each. Raises CannotReplay."""
    recorded = entry.recorded
    ids = list(recorded.prompt_ids)
    if difference.in_prompt:
        ids = ids[: difference.token]
        expected = None
    else:
        ids += recorded.ids[: difference.token]
        expected = recorded.checksums[difference.token] if difference.token < len(recorded.checksums) else None
    (ours, our_logits), (theirs, their_logits) = [
        await _rows(one, ids, recorded.numerics_class) for one in (cluster, reference)
    ]
    first = first_difference(ours, theirs)
    return Located(
        number=first[0] if first else None,
        position=first[1] if first else None,
        logits=our_logits != their_logits,
        same=expected in (None, our_logits),
        reference_same=expected in (None, their_logits),
    )


def first_difference(ours: Rows, theirs: Rows) -> tuple[int, int] | None:
    """The lowest number of a layer at which any row differs, and the first such position."""
    found = [
        (number, position)
        for position in ours.keys() & theirs.keys()
        for number, (one, other) in enumerate(zip(ours[position], theirs[position], strict=False))
        if one != other
    ]
    return min(found, default=None)


async def _rows(cluster: Cluster, ids: list[int], numerics_class: str) -> tuple[Rows, int]:
    """On a worker of the class, if there is one."""
    workers = sorted(await cluster.workers(), key=lambda one: one.numerics_class != numerics_class)
    if not workers:
        raise CannotReplay("no attention worker takes requests now")
    return await layer_rows(cluster, workers[0], ids)
