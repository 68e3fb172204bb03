"""A published figure as a question: what was run, what came out, and how this model is asked for the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from services.planner.device import Device, Link

Kind = Literal["theory", "colocated", "separate", "gain of separating", "prefill"]
Use = Literal["theory", "fitted", "tested"]
Predict = Callable[["Profiles"], float]


@dataclass(frozen=True, slots=True)
class Profiles:
    """The devices and links that rows are about, by name."""

    devices: Mapping[str, Device]
    links: Mapping[str, Link]


@dataclass(frozen=True, slots=True)
class Row:
    """A published figure. `relative`: it is a percentage of something, so its error is a difference in points."""

    name: str
    source: str
    unit: str
    published: float
    kind: Kind
    use: Use
    predict: Predict
    relative: bool = False
