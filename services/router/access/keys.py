"""API keys: a TOML file with a section for each, which holds the SHA-256 of the key and never the key.

    [alice]
    sha256 = "9f86d081884c7d65…"
    requests_per_minute = 60

A key is 32 random bytes, so its plain hash gives nothing away.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import secrets
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from services.checkpoint.regular_files import read_whole

PREFIX = "caracal-"
MOST_BYTES = 16 << 20  # of a file of keys
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
_KEY = re.compile(rf"{PREFIX}[\w-]{{43}}")  # where it does not belong, it is not shown
_HASH = re.compile(r"[0-9a-f]{64}")
_LIMIT = 1e12


class KeysError(ValueError):
    """Expected: a file of keys cannot be used; the message, of one line, names the section and the field."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    """One key and what it may do. 0 = without a limit.

    `tokens_per_minute`: of prompts and answers, counted as they are asked for. `concurrent`: open requests. `weight`:
    its share of the cluster beside keys of weight 1, when requests have to wait. `admin`: it may read status and
    metrics, and scale.
    """

    name: str
    sha256: str
    requests_per_minute: float = 0.0
    tokens_per_minute: float = 0.0
    concurrent: int = 0
    weight: float = 1.0
    admin: bool = False


class ApiKeys:
    """The keys of one file, as it was read."""

    def __init__(self, keys: Mapping[str, ApiKey]) -> None:
        self._by_hash = {key.sha256: key for key in keys.values()}

    @classmethod
    def read(cls, path: Path) -> ApiKeys:
        """Raises KeysError."""
        try:
            text = read_whole(path, MOST_BYTES).decode()
        except OSError as error:
            raise KeysError(f"{path}: {error.strerror or error}") from None
        except UnicodeDecodeError as error:
            raise KeysError(f"{path}: not UTF-8 at byte {error.start}") from None
        try:
            sections = tomllib.loads(text)
        except (ValueError, RecursionError) as error:  # a number of many digits, or too many brackets
            raise KeysError(f"{path}: not TOML: {error}") from None
        keys = {name: _key(path, name, section) for name, section in sections.items()}
        by_hash: dict[str, str] = {}
        for key in keys.values():
            if (other := by_hash.setdefault(key.sha256, key.name)) != key.name:
                raise KeysError(f"{path}: {other} and {key.name} have the same key")
        if not keys:
            raise KeysError(f"{path}: it has no keys, so nobody could use this router")
        return cls(keys)

    @property
    def keys(self) -> list[ApiKey]:
        return list(self._by_hash.values())

    @property
    def names(self) -> set[str]:
        return {key.name for key in self._by_hash.values()}

    def find(self, presented: str) -> ApiKey | None:
        """Returns the key that a client presents; None when there is no such key."""
        digest = key_hash(presented)
        found = self._by_hash.get(digest)
        return found if found is not None and hmac.compare_digest(found.sha256, digest) else None


def key_hash(key: str) -> str:
    return hashlib.sha256(key.encode(errors="surrogatepass")).hexdigest()


def new_key() -> str:
    return PREFIX + secrets.token_urlsafe(32)


def section_of(name: str, sha256: str, limits: Mapping[str, Any]) -> str:
    """Returns the section of a key, without the fields that have their defaults. Raises KeysError."""
    given = {field.name: field.default for field in fields(ApiKey)}
    stated = {"sha256": sha256} | {field: value for field, value in limits.items() if value != given[field]}
    _key("key", name, stated)
    quoted = name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else f'"{name}"'
    values = [f"{field} = {json.dumps(value)}\n" for field, value in stated.items()]
    return f"[{quoted}]\n{''.join(values)}"


def _key(path: Path | str, name: str, section: Any) -> ApiKey:
    if _KEY.search(name):
        raise KeysError(f"{path}: a section has a key as its name: names are shown, keys are not")
    if not _NAME.fullmatch(name):
        raise KeysError(f"{path}: {name[:64]!r} is no name of a key: letters, digits and . _ @ - only, at most 64")
    if not isinstance(section, dict):
        raise KeysError(f"{path}: {name}: is not a section")
    known = {field.name: field for field in fields(ApiKey) if field.name != "name"}
    for field, value in section.items():
        if field not in known:
            shown = "(a key)" if _KEY.search(field) else field[:40]
            raise KeysError(f"{path}: {name}.{shown}: there is no such field, only {', '.join(known)}")
        if fault := _fault(field, value):
            raise KeysError(f"{path}: {name}.{field}: {fault}")
    if "sha256" not in section:
        raise KeysError(f"{path}: {name}: sha256 is missing; `caracal key {name}` makes a key")
    return ApiKey(name=name, **section)


def _fault(field: str, value: Any) -> str:
    """Returns what is wrong with a field's value; empty when nothing is."""
    if field == "sha256":
        return "" if isinstance(value, str) and _HASH.fullmatch(value) else "is not a SHA-256 of 64 hexadecimal digits"
    if field == "admin":
        return "" if isinstance(value, bool) else "is not true or false"
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if field == "concurrent":
        return "" if number and isinstance(value, int) and 0 <= value <= _LIMIT else "is not a whole number from 0"
    least = 0.01 if field == "weight" else 0.0
    most = 100.0 if field == "weight" else _LIMIT
    return "" if number and least <= value <= most else f"is not a number from {least:g} to {most:g}"
