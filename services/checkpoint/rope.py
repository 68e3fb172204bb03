"""The rotary embedding that a config.json asks for: the default one, or YaRN. Pure.

Source: docs/longcat-flash.md, rope; arithmetic of transformers' `_compute_yarn_parameters`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from services.checkpoint.errors import LEAST, MOST, bad_field, shown

DEFAULT_THETA = 1e7
LEAST_THETA = 2.0  # its logarithm divides
_TYPES = ("default", "yarn", "deepseek_yarn")


@dataclass(frozen=True, slots=True, kw_only=True)
class Yarn:
    """YaRN's fields, under the names that config.json gives them. Frequencies below a band are divided by `factor`."""

    factor: float
    original_max_position_embeddings: int
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True
    table_scale: float = 1.0  # of cosines and sines
    softmax_scale: float = 1.0  # of the attention scores, on top of 1 / sqrt(head dim)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rope:
    """theta, and YaRN's fields where the model has them."""

    theta: float = DEFAULT_THETA
    yarn: Yarn | None = None


def rope_of(raw: Mapping[str, Any]) -> Rope:
    """Reads `rope_theta`, `rope_scaling` and `rope_parameters`. Raises CheckpointError naming the field.

    Older files have theta at the top level and the rest in `rope_scaling`; newer ones have all in `rope_parameters`.
    """
    theta, found, read = raw.get("rope_theta"), Rope(), False
    for name in ("rope_scaling", "rope_parameters"):
        given = raw.get(name)
        if given is None:
            continue
        if not isinstance(given, Mapping):
            raise bad_field(name, f"{shown(given)} is not an object")
        inner = given.get("rope_theta")
        if None not in (theta, inner) and theta != inner:
            raise bad_field(name, f"rope_theta {shown(inner)} contradicts {shown(theta)}")
        theta = inner if theta is None else theta
        yarn = _Fields(name, given).yarn()
        if read and found.yarn != yarn:
            raise bad_field(name, "contradicts rope_scaling")
        found, read = Rope(yarn=yarn), True
    if theta is None:
        return found
    if _positive("rope_theta", theta) < LEAST_THETA:
        raise bad_field("rope_theta", f"{shown(theta)} is below {LEAST_THETA:g}")
    return Rope(theta=float(theta), yarn=found.yarn)


@dataclass(frozen=True, slots=True)
class _Fields:
    """One object of rope fields."""

    name: str
    given: Mapping[str, Any]

    def yarn(self) -> Yarn | None:
        """The YaRN that the object asks for; None for the default rope."""
        kinds = {self.given[key] for key in ("rope_type", "type") if isinstance(self.given.get(key), str)}
        kind = kinds.pop() if kinds else "default"
        if kinds or kind not in _TYPES:
            raise bad_field(f"{self.name}.rope_type", f"{shown(kind)} is not served, only {', '.join(_TYPES)}")
        known = {"rope_type", "type", "rope_theta", "partial_rotary_factor"}
        if kind != "default":
            known |= {each.name for each in fields(Yarn)} - {"table_scale", "softmax_scale"}
            known |= {"mscale", "mscale_all_dim", "attention_factor"}
        unknown = sorted(key for key in self.given if key not in known and self.given[key] is not None)
        if unknown:
            raise bad_field(f"{self.name}.{unknown[0]}", f"is not known for rope type {shown(kind)}")
        if self.given.get("partial_rotary_factor") not in (None, 1):
            raise bad_field(f"{self.name}.partial_rotary_factor", "only 1 is served: all rope dims rotate")
        return None if kind == "default" else self._scaled(kind)

    def _scaled(self, kind: str) -> Yarn:
        factor = self._number("factor")
        original = self._number("original_max_position_embeddings")
        if original != int(original):
            raise bad_field(f"{self.name}.original_max_position_embeddings", f"{shown(original)} is not a whole number")
        truncate = self.given.get("truncate", True)
        if not isinstance(truncate, bool):
            raise bad_field(f"{self.name}.truncate", f"{shown(truncate)} is not true or false")
        all_dims = self._number("mscale_all_dim", 0.0)
        return Yarn(
            factor=factor,
            original_max_position_embeddings=int(original),
            beta_fast=self._number("beta_fast", 32.0),
            beta_slow=self._number("beta_slow", 1.0),
            truncate=truncate,
            table_scale=self._table_scale(kind, factor, all_dims),
            softmax_scale=_mscale(factor, all_dims) ** 2 if all_dims else 1.0,
        )

    def _table_scale(self, kind: str, factor: float, all_dims: float) -> float:
        """The two types differ only here: where `mscale_all_dim` is 0, transformers' `yarn` takes no `mscale`."""
        if kind == "yarn" and self.given.get("attention_factor") is not None:
            return self._number("attention_factor")
        if self.given.get("attention_factor") is not None:
            raise bad_field(f"{self.name}.attention_factor", f"is not known for rope type {shown(kind)}")
        mscale = self._number("mscale", 0.0 if kind == "yarn" else 1.0)
        if kind == "yarn" and not (mscale and all_dims):
            return _mscale(factor, 1.0)
        return _mscale(factor, mscale) / _mscale(factor, all_dims)

    def _number(self, key: str, default: float | None = None) -> float:
        value = self.given.get(key)
        if value is None:
            if default is None:
                raise bad_field(f"{self.name}.{key}", "is missing")
            return default
        if value == 0 and default is not None and key.startswith("mscale"):
            return 0.0
        return _positive(f"{self.name}.{key}", value)


def _mscale(factor: float, mscale: float) -> float:
    return 1.0 if factor <= 1 else 0.1 * mscale * math.log(factor) + 1.0


def _positive(field: str, value: Any) -> float:
    # Compared before it is converted: float() overflows on an integer of 400 digits.
    if type(value) not in (int, float) or not LEAST <= value <= MOST:
        raise bad_field(field, f"{shown(value)} is not a number from {LEAST:g} to {MOST:g}")
    return float(value)
