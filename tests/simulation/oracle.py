"""What every answer should be: a function of the request alone, through experts that each add a number."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

EXPERTS, CHOICES, VOCABULARY, EOS = 4, 2, 61, 0
CLASS = "class-a"  # the numerics class of workers that may serve
MASK = (1 << 32) - 1


class Row(NamedTuple):
    """What goes through the layer to give the token at a `place` of a request's answer."""

    seed: int
    place: int
    last: int


def mixed(*numbers: int) -> int:
    """A number that depends on all of these."""
    value = 0x9E3779B9
    for number in numbers:
        value = ((value ^ (number & MASK)) * 0x85EBCA6B) & MASK
        value ^= value >> 13
    return value


@lru_cache(1 << 16)
def chosen(row: Row) -> tuple[int, ...]:
    """The FFN experts that the gate chooses for a row; of every fourth row there are only zero experts."""
    choice = mixed(*row, 7)
    if choice % 4 == 0:
        return ()
    first = choice // 4 % EXPERTS
    return tuple(sorted({first, (first + 1 + choice // 64 % (EXPERTS - 1)) % EXPERTS}))[:CHOICES]


@lru_cache(1 << 16)
def expert_output(numerics_class: str, expert: int, row: Row) -> int:
    """What an expert makes of a row. Workers of another class have other weights."""
    return mixed(*row, expert, sum(numerics_class.encode()))


def digest(numerics_class: str, expert: int) -> int:
    """The golden digest of an expert."""
    return mixed(expert, sum(numerics_class.encode())) | 1


def token(row: Row, outputs: Sequence[int]) -> int:
    """The token that follows from what the experts have added."""
    return mixed(*row, sum(outputs)) % VOCABULARY


@lru_cache(1 << 12)
def answer(seed: int, prompt: tuple[int, ...], length: int) -> tuple[tuple[int, ...], str]:
    """The ids of an answer of at most `length` tokens, and its finish reason."""
    ids: list[int] = []
    while len(ids) < length:
        row = Row(seed, len(ids), ids[-1] if ids else prompt[-1])
        ids.append(token(row, [expert_output(CLASS, expert, row) for expert in chosen(row)]))
        if ids[-1] == EOS:
            return tuple(ids), "stop"
    return tuple(ids), "length"
