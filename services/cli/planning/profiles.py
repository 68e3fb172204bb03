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
from services.cli.planning.profile_fields import DEVICE, FACTORS, LINK, check
from services.planner.device import Device, Factors, Link

Table = Mapping[str, Any]


@cache
def _data(name: str) -> dict[str, dict[str, Any]]:
    return tomllib.loads(files("services.planner").joinpath("data", f"{name}.toml").read_text(encoding="utf-8"))


def device(name: str, profile: Path | None = None) -> Device:
    """The device of that name, from a calibrated profile if it has it. Raises BadPlan with the nearest known name."""
    table = {**_data("devices"), **_own(profile, "devices")}
    raw = _whole(name, table, ())
    factors = raw.get("factors", {})
    return Device(
        name=name,
        memory_bytes=raw["memory_gb"] * 1e9,
        memory_bytes_s=raw["memory_gb_s"] * 1e9,
        flops={dtype: peak * 1e12 for dtype, peak in raw["tflops"].items()},
        # A calibrated profile of a known device says nothing of what runs it.
        platform=raw.get("platform") or _data("devices").get(name, {}).get("platform", "cuda"),
        attention_flops=raw.get("attention_tflops", 0.0) * 1e12,
        index_bytes_s=raw.get("index_gb_s", 0.0) * 1e9,
        price_h=float(raw.get("price_h", 0.0)),
        factors=Factors(
            efficiency=float(factors.get("efficiency", 1.0)),
            overlap_loss=float(factors.get("overlap_loss", 0.0)),
            op_s=factors.get("op_us", 0.0) * 1e-6,
            step_s=factors.get("step_us", 0.0) * 1e-6,
            row_s=factors.get("row_us", 0.0) * 1e-6,
            touch_s=factors.get("touch_us", 0.0) * 1e-6,
            fitted_on=factors.get("fitted_on", ""),
        ),
        sources=dict(raw.get("sources", {})),
    )


def link(name: str, profile: Path | None = None) -> Link:
    """The link of that name, from a calibrated profile if it has it. Raises BadPlan with the nearest known name."""
    table = {**_data("links"), **_own(profile, "links")}
    raw = _found(name, table, "link")
    check(f"link {name}", raw, LINK)
    return Link(
        name=name,
        bytes_s=raw["gb_s"] * 1e9,
        latency_s=raw["latency_us"] * 1e-6,
        message_s=raw.get("message_us", 0.0) * 1e-6,
        row_s=raw.get("row_us", 0.0) * 1e-6,
        domain=raw.get("domain", 0),
        sources=dict(raw.get("sources", {})),
    )


def names(kind: str) -> list[str]:
    """Known names of `devices` or `links`."""
    return list(_data(kind))


def fields(kind: str, name: str) -> dict[str, Any]:
    """What the package's own table of `devices` or `links` says of a name, without what it takes from another."""
    return dict(_data(kind)[name])


def _whole(name: str, table: Mapping[str, Table], seen: tuple[str, ...]) -> dict[str, Any]:
    """The table of a device with what it takes from the one that it is `like`. Raises BadPlan."""
    raw = _found(name, table, f"device that {seen[-1]} could be like" if seen else "GPU or device")
    if name in seen:
        raise BadPlan(f"device {seen[0]}: `like` leads from {' to '.join([*seen, name])}, in a circle")
    if "like" not in raw:
        check(f"device {name}", raw, DEVICE)
        check(f"device {name}, factors", raw.get("factors", {}), FACTORS)
        return dict(raw)
    check(f"device {name}", raw, DEVICE, required=False)
    check(f"device {name}, factors", raw.get("factors", {}), FACTORS)
    base = _whole(raw["like"], table, (*seen, name))
    sources = {**base.get("sources", {}), **raw.get("sources", {})}
    if "factors" not in raw:
        sources["factors"] = f"taken from {raw['like']}"
    return {**base, **raw, "sources": sources}


def _own(profile: Path | None, kind: str) -> dict[str, dict[str, Any]]:
    if profile is None:
        return {}
    try:
        raw = tomllib.loads(profile.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise BadPlan(f"{profile} is no profile: {error}") from None
    if unknown := sorted(set(raw) - {"devices", "links", "measured"}):
        raise BadPlan(f"{profile} has an unknown field: {unknown[0]}")
    own = raw.get(kind, {})
    if not isinstance(own, dict) or not all(isinstance(one, dict) for one in own.values()):
        raise BadPlan(f"{profile}: {kind} is no table of tables, as [{kind}.NAME]")
    return own


def _found(name: str, table: Mapping[str, Table], what: str) -> Table:
    if name in table:
        return table[name]
    near = difflib.get_close_matches(name, table, 1, 0.0)[0]
    raise BadPlan(f"no {what} is named {name!r}; the nearest is {near!r} (known: {', '.join(table)})")
