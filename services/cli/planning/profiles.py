"""Reads profiles of devices and links: the package's own, and those that `caracal plan --calibrate` has written."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from services.cli.planning.errors import BadPlan
from services.planner.device import Device, Factors, Link

DEVICE_FIELDS = {
    "like", "memory_gb", "memory_gb_s", "tflops", "attention_tflops", "index_gb_s", "price_h", "sources", "factors",
    "shared_memory",
}  # fmt: skip
LINK_FIELDS = {"gb_s", "latency_us", "message_us", "row_us", "domain", "sources"}
FACTOR_FIELDS = {"efficiency", "overlap_loss", "op_us", "step_us", "row_us", "touch_us", "fitted_on"}


@cache
def _data(name: str) -> dict[str, dict[str, Any]]:
    return tomllib.loads(files("services.planner").joinpath("data", f"{name}.toml").read_text(encoding="utf-8"))


def device(name: str, profile: Path | None = None) -> Device:
    """The device of that name, from a calibrated profile if it has it. Raises BadPlan with the nearest known name."""
    table = {**_data("devices"), **_own(profile, "devices")}
    return _device(name, _found(name, table, "GPU or device"), table)


def link(name: str, profile: Path | None = None) -> Link:
    table = {**_data("links"), **_own(profile, "links")}
    raw = _found(name, table, "link")
    _check(name, raw, LINK_FIELDS)
    return Link(
        name=name,
        bytes_s=float(raw["gb_s"]) * 1e9,
        latency_s=float(raw["latency_us"]) * 1e-6,
        message_s=float(raw.get("message_us", 0.0)) * 1e-6,
        row_s=float(raw.get("row_us", 0.0)) * 1e-6,
        sources=dict(raw.get("sources", {})),
    )


def domain(name: str) -> int:
    """How many devices a link joins at most; 0: any number."""
    return int(_data("links").get(name, {}).get("domain", 0))


def names(kind: str) -> list[str]:
    """Known names of `devices` or `links`."""
    return list(_data(kind))


def _device(name: str, raw: Mapping[str, Any], table: Mapping[str, Mapping[str, Any]]) -> Device:
    _check(name, raw, DEVICE_FIELDS)
    base: Device | None = None
    if "like" in raw:
        base = _device(raw["like"], table[raw["like"]], table)
        factors = base.factors
        sources = {**base.sources, **raw.get("sources", {}), "factors": f"taken from {raw['like']}"}
    else:
        factors, sources = _factors(name, raw.get("factors", {})), dict(raw.get("sources", {}))

    def value(key: str, unit: float, known: float) -> float:
        return float(raw[key]) * unit if key in raw else known

    flops = {dtype: peak * 1e12 for dtype, peak in raw["tflops"].items()} if "tflops" in raw else {}
    return Device(
        name=name,
        memory_bytes=value("memory_gb", 1e9, base.memory_bytes if base else 0.0),
        memory_bytes_s=value("memory_gb_s", 1e9, base.memory_bytes_s if base else 0.0),
        flops=flops or (base.flops if base else {}),
        attention_flops=value("attention_tflops", 1e12, base.attention_flops if base else 0.0),
        index_bytes_s=value("index_gb_s", 1e9, base.index_bytes_s if base else 0.0),
        price_h=value("price_h", 1.0, base.price_h if base else 0.0),
        factors=_factors(name, raw["factors"]) if "factors" in raw else factors,
        shared_memory=bool(raw.get("shared_memory", False)),
        sources=sources,
    )


def _factors(name: str, raw: Mapping[str, Any]) -> Factors:
    _check(f"{name}.factors", raw, FACTOR_FIELDS)
    return Factors(
        efficiency=float(raw.get("efficiency", 1.0)),
        overlap_loss=float(raw.get("overlap_loss", 0.0)),
        op_s=float(raw.get("op_us", 0.0)) * 1e-6,
        step_s=float(raw.get("step_us", 0.0)) * 1e-6,
        row_s=float(raw.get("row_us", 0.0)) * 1e-6,
        touch_s=float(raw.get("touch_us", 0.0)) * 1e-6,
        fitted_on=str(raw.get("fitted_on", "")),
    )


def _own(profile: Path | None, kind: str) -> dict[str, dict[str, Any]]:
    if profile is None:
        return {}
    try:
        raw = tomllib.loads(profile.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise BadPlan(f"{profile} is no profile: {error}") from None
    _check(str(profile), raw, {"devices", "links", "measured"})
    return dict(raw.get(kind, {}))


def _found(name: str, table: Mapping[str, Any], what: str) -> Mapping[str, Any]:
    if name in table:
        found: Mapping[str, Any] = table[name]
        return found
    near = difflib.get_close_matches(name, table, 1, 0.0)[0]
    raise BadPlan(f"no {what} is named {name!r}; the nearest is {near!r} (known: {', '.join(table)})")


def _check(name: str, raw: Mapping[str, Any], known: set[str]) -> None:
    if unknown := sorted(set(raw) - known):
        raise BadPlan(f"{name} has an unknown field: {unknown[0]}")
