"""The n-gram embedding of LongCat-Flash-Lite: its tables, and which of their rows a token takes. Pure.

A token's embedding adds to its word row one row of each table; the row is a hash of the token and of those before it.
Source: docs/longcat-flash.md, n-gram embedding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from services.checkpoint.errors import bad_field, shown

TABLES_FOLDER = Path("/dev/shm")  # memory, on Linux: where the processes of a machine share the tables
FIELDS = ("ngram_vocab_size_ratio", "emb_neighbor_num", "emb_split_num")
_LARGEST_TABLE = 2**31 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class NgramConfig:
    """`neighbours` tokens at most make one n-gram, 2 at least; for each length there are `splits` tables."""

    neighbours: int
    splits: int
    base_rows: int  # table g has base_rows + 2 g + 1 rows
    vocab_size: int
    width: int  # values of a table's row
    boundary_ids: tuple[int, ...]  # after one of these ids a new context begins

    @property
    def tables(self) -> int:
        return (self.neighbours - 1) * self.splits

    @property
    def context(self) -> int:
        """How many ids before a token its n-grams reach."""
        return self.neighbours - 1

    def rows(self, table: int) -> int:
        return self.base_rows + 2 * table + 1

    def multipliers(self, table: int) -> tuple[int, ...]:
        """What a token and the ids before it are multiplied with, nearest first; 0 where they are not of the n-gram."""
        length, rows = table // self.splits + 2, self.rows(table)
        return tuple(pow(self.vocab_size, back, rows) if back < length else 0 for back in range(self.neighbours))

    def before(self, ids: Sequence[int], position: int) -> tuple[int, ...]:
        """The ids before a position, nearest first; 0 before the sequence's start and from a boundary on.

        A boundary token itself still sees the ids before it; the token after it sees none of them, nor the boundary.
        """
        found: list[int] = []
        for at in range(position - 1, position - 1 - self.context, -1):
            if at < 0 or ids[at] in self.boundary_ids:
                break
            found.append(ids[at])
        return (*found, *[0] * (self.context - len(found)))


def ngram_of(raw: Mapping[str, Any], vocab_size: int, hidden_size: int, eos_ids: Sequence[int]) -> NgramConfig:
    """Reads the fields of a parsed config.json. Raises CheckpointError naming the field."""
    ratio = raw.get("ngram_vocab_size_ratio")
    if isinstance(ratio, bool) or not isinstance(ratio, int | float) or not 1 <= ratio * vocab_size <= _LARGEST_TABLE:
        raise bad_field("ngram_vocab_size_ratio", f"{shown(ratio)} gives no tables of 1 to {_LARGEST_TABLE} rows")
    neighbours, splits = (_count(raw, name, least) for name, least in (("emb_neighbor_num", 2), ("emb_split_num", 1)))
    tables = (neighbours - 1) * splits
    if hidden_size % tables:
        raise bad_field("emb_split_num", f"{tables} tables do not divide hidden_size {hidden_size}")
    if neighbours * vocab_size * (int(ratio * vocab_size) + 2 * tables) >= 2**63:
        raise bad_field("ngram_vocab_size_ratio", f"{shown(ratio)} gives hashes that do not fit into 64 bits")
    return NgramConfig(
        neighbours=neighbours,
        splits=splits,
        base_rows=int(ratio * vocab_size),
        vocab_size=vocab_size,
        width=hidden_size // tables,
        boundary_ids=tuple(sorted(eos_ids)),
    )


def _count(raw: Mapping[str, Any], name: str, least: int) -> int:
    value = raw.get(name)
    if type(value) is not int or not least <= value <= 64:
        raise bad_field(name, f"{shown(value)} is not a whole number of {least} to 64")
    return value
