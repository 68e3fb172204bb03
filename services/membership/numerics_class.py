"""Which numerics classes go together, by their names. Pure.

An attention worker's class is the class of its expert workers, a hyphen, and what its own tensors add.
"""

from __future__ import annotations

from collections.abc import Iterable


def fits(numerics_class: str, table_class: str) -> bool:
    """Whether a worker of a class, of either role, may use a table of `table_class`; one of none is for any."""
    return not table_class or numerics_class == table_class or numerics_class.startswith(f"{table_class}-")


def is_of(numerics_class: str, table_class: str) -> bool:
    """Whether a worker of a class, of either role, belongs to `table_class`; one of none belongs to none but that."""
    return fits(numerics_class, table_class) if table_class else not numerics_class


def without_common(classes: Iterable[str]) -> list[str]:
    """The classes, sorted, without those of expert workers whose attention workers are there."""
    found = sorted(set(classes) - {""})
    return [one for one in found if not any(other != one and fits(other, one) for other in found)]
