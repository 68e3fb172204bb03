"""The fields of profiles of devices and links, and what may stand in each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from services.cli.planning.errors import BadPlan
from services.planner.device import PLATFORMS, WIDTHS


@dataclass(frozen=True, slots=True)
class Field:
    """`wants`: what may stand there, in words."""

    wants: str
    fits: Callable[[Any], bool]
    required: bool = False


def is_number(value: object, low: float, high: float) -> bool:
    """Whether it is a finite number between both, and neither a text nor a truth."""
    return isinstance(value, int | float) and type(value) is not bool and low <= value <= high


def _number(low: float, high: float, unit: str, required: bool = False) -> Field:
    return Field(f"a number from {low:g} to {high:g}, {unit}", lambda value: is_number(value, low, high), required)


def _texts(value: object) -> bool:
    return isinstance(value, Mapping) and all(type(one) is str for one in value.values())


def _peaks(value: object) -> bool:
    return isinstance(value, Mapping) and bool(value) and all(
        dtype in WIDTHS and is_number(peak, 1e-6, 1e6) for dtype, peak in value.items()
    )  # fmt: skip


SOURCES = Field("a table of texts", _texts)
TEXT = Field("a text", lambda value: type(value) is str)
DEVICE: Mapping[str, Field] = {
    "like": TEXT,
    "platform": Field(f"one of {', '.join(PLATFORMS)}", PLATFORMS.__contains__),
    "memory_gb": _number(1e-3, 1e5, "GB", True),
    "memory_gb_s": _number(1e-3, 1e6, "GB/s", True),
    "tflops": Field(f"a table of numbers from 1e-06 to 1e+06 by dtype ({', '.join(WIDTHS)})", _peaks, True),
    "attention_tflops": _number(1e-6, 1e6, "TFLOPS"),
    "index_gb_s": _number(1e-3, 1e6, "GB/s"),
    "price_h": _number(1e-6, 1e6, "USD an hour"),
    "sources": SOURCES,
    "factors": Field("a table", lambda value: isinstance(value, Mapping)),
}
FACTORS: Mapping[str, Field] = {
    "efficiency": _number(0.01, 10, "a share of the peaks"),
    "overlap_loss": _number(0, 1, "a share"),
    "op_us": _number(0, 1e6, "µs"),
    "step_us": _number(0, 1e9, "µs"),
    "row_us": _number(0, 1e9, "µs"),
    "touch_us": _number(0, 1e9, "µs"),
    "fitted_on": TEXT,
}
LINK: Mapping[str, Field] = {
    "gb_s": _number(1e-6, 1e6, "GB/s", True),
    "latency_us": _number(0, 1e9, "µs", True),
    "message_us": _number(0, 1e9, "µs"),
    "row_us": _number(0, 1e9, "µs"),
    "domain": Field("a whole number of devices, at least 1", lambda value: type(value) is int and value >= 1),
    "sources": SOURCES,
}


def check(what: str, raw: Mapping[str, Any], known: Mapping[str, Field], *, required: bool = True) -> None:
    """Raises BadPlan naming the first field that is unknown, wrong, or lacking where all that is `required` must be."""
    if unknown := sorted(set(raw) - set(known)):
        raise BadPlan(f"{what} has an unknown field: {unknown[0]}")
    for name, field in known.items():
        if name not in raw:
            if required and field.required:
                raise BadPlan(f"{what} has no {name}: it wants {field.wants}")
        elif not field.fits(raw[name]):
            raise BadPlan(f"{what}: {name} is {raw[name]!r}; it wants {field.wants}")
