"""The lines of a record: JSON, one object each. docs/verify.md describes them for people.

A header says which model and numerics class the requests after it may name; it comes before the first of each class.
Nothing that is read is trusted.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NoReturn

from caracal_proto import attention_pb2
from google.protobuf.json_format import MessageToDict, ParseDict, ParseError

VERSION = 1
ENDINGS = ("stop", "length", "cancel", "error")
FINISH_REASONS = ("", "stop", "length")
MAX_ID = 2**32 - 1
MAX_TEXT = 4096  # characters of a name, a path or a code
MAX_SHOWN = 60  # characters of what was read, in an error
PART = 1024  # entries of a list that are written at once


class BadLine(ValueError):
    """A line that is none of a record. The message names the field and what is wrong with it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """The model and the numerics class of requests. `numerics`: the class's parts, of which one is the digest of the
    weights; `directory`: the model's, on the machine that recorded."""

    model: str
    directory: str
    numerics_class: str
    numerics: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Scored:
    """A token's log-probability, and the likeliest ids with theirs. Its rank, 1 for the likeliest, in prompts only."""

    logprob: float
    top: Sequence[tuple[int, float]] = ()
    rank: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """One generation. `ending`: of ENDINGS; with "error", its code is `error`. `finish_reason`: the worker's, empty
    where the router, or its client, ended the answer. `stop`: stop strings, which the router looks for in the text.
    `numerics_class`: empty if no worker was asked. `started`: seconds since 1970.
    """

    request_id: str
    prompt_ids: Sequence[int]
    sampling: attention_pb2.Sampling
    ids: Sequence[int]
    checksums: Sequence[int]
    ending: str
    started: float = 0.0
    stop: Sequence[str] = ()
    logprobs: Sequence[Scored] | None = None
    prompt_logprobs: Sequence[Scored] | None = None
    error: str = ""
    finish_reason: str = ""
    stop_id: int | None = None
    attempts: int = 0
    numerics_class: str = ""


def header_line(header: Header) -> bytes:
    return _line(
        {
            "caracal_record": VERSION,
            "model": header.model,
            "directory": header.directory,
            "numerics_class": header.numerics_class,
            "numerics": dict(header.numerics),
        }
    )


def request_line(recorded: Recorded) -> bytes:
    """The line of one generation. Numbers of `sampling` keep their bits: floats are written as shortest fp32."""
    values: dict[str, Any] = {
        "request_id": recorded.request_id,
        "started": recorded.started,
        "numerics_class": recorded.numerics_class,
        "attempts": recorded.attempts,
        "sampling": MessageToDict(recorded.sampling, preserving_proto_field_name=True),
        "stop": list(recorded.stop),
        "ending": recorded.ending,
        "error": recorded.error,
        "finish_reason": recorded.finish_reason,
        "stop_id": recorded.stop_id,
    }
    lists: dict[str, Sequence[Any]] = {
        "prompt_ids": recorded.prompt_ids,
        "ids": recorded.ids,
        "checksums": recorded.checksums,
    }
    for name in ("logprobs", "prompt_logprobs"):
        scores: Sequence[Scored] | None = getattr(recorded, name)
        if scores is not None:
            lists[name] = [[one.logprob, [list(other) for other in one.top], one.rank] for one in scores]
    return _line(values, lists)


def parse_line(text: bytes) -> Header | Recorded:
    """Raises BadLine."""
    try:
        raw = json.loads(text.decode(), parse_constant=_no_number)
    except (ValueError, RecursionError):
        raise BadLine("not JSON, or cut short") from None
    if not isinstance(raw, dict):
        raise BadLine("not an object")
    fields = _Fields(raw)
    found = _header(fields) if "caracal_record" in raw else _recorded(fields)
    fields.end()
    return found


def _header(fields: _Fields) -> Header:
    version = fields.integer("caracal_record", 1, MAX_ID)
    if version != VERSION:
        fields.fail("caracal_record", f"is {version}: this version of caracal reads {VERSION}")
    numerics = fields.take("numerics", dict)
    if not all(isinstance(value, str) and len(value) <= MAX_TEXT for value in numerics.values()):
        fields.fail("numerics", "has a value that is no text")
    return Header(
        model=fields.text("model"),
        directory=fields.text("directory"),
        numerics_class=fields.text("numerics_class"),
        numerics=numerics,
    )


def _recorded(fields: _Fields) -> Recorded:
    ids = fields.ids("ids")
    checksums = fields.ids("checksums")
    if len(checksums) != len(ids):
        fields.fail("checksums", f"has {len(checksums)} entries, ids has {len(ids)}")
    logprobs = fields.scores("logprobs")
    if logprobs is not None and len(logprobs) != len(ids):
        fields.fail("logprobs", f"has {len(logprobs)} entries, ids has {len(ids)}")
    prompt = fields.ids("prompt_ids")
    if not prompt:
        fields.fail("prompt_ids", "is empty")
    stop = fields.take("stop", list)
    if not all(isinstance(text, str) for text in stop):
        fields.fail("stop", "has an entry that is no text")
    stop_id = None if fields.raw.get("stop_id") is None else fields.integer("stop_id", 0, MAX_ID)
    fields.read.add("stop_id")
    return Recorded(
        request_id=fields.text("request_id"),
        started=fields.number("started"),
        numerics_class=fields.text("numerics_class"),
        attempts=fields.integer("attempts", 0, MAX_ID),
        prompt_ids=prompt,
        sampling=fields.sampling("sampling"),
        stop=tuple(stop),
        ids=ids,
        checksums=checksums,
        logprobs=logprobs,
        prompt_logprobs=fields.scores("prompt_logprobs"),
        ending=fields.one_of("ending", ENDINGS),
        error=fields.text("error"),
        finish_reason=fields.one_of("finish_reason", FINISH_REASONS),
        stop_id=stop_id,
    )


class _Fields:
    """Reads the fields of one object by name."""

    def __init__(self, raw: dict[str, Any]) -> None:
        self.raw = raw
        self.read: set[str] = set()

    def fail(self, name: str, why: str) -> NoReturn:
        raise BadLine(f"{name[:MAX_SHOWN]} {why}")

    def end(self) -> None:
        """Raises BadLine for a field that nothing has read: what it means would be lost."""
        if unknown := sorted(self.raw.keys() - self.read):
            self.fail(ascii(unknown[0]), "is no field that this version of caracal knows")

    def take(self, name: str, kind: type) -> Any:
        self.read.add(name)
        if name not in self.raw:
            self.fail(name, "is missing")
        value = self.raw[name]
        if type(value) is not kind:
            named = {dict: "an object", list: "a list", str: "text", int: "a whole number"}[kind]
            self.fail(name, f"is {ascii(value)[:MAX_SHOWN]}, not {named}")
        return value

    def text(self, name: str) -> str:
        value: str = self.take(name, str)
        if len(value) > MAX_TEXT or not value.isprintable():
            self.fail(name, "is too long or not printable")
        return value

    def one_of(self, name: str, choices: Sequence[str]) -> str:
        value = self.text(name)
        if value not in choices:
            self.fail(name, f"is {value[:MAX_SHOWN]!r}, not {', '.join(repr(choice) for choice in choices)}")
        return value

    def integer(self, name: str, low: int, high: int) -> int:
        value: int = self.take(name, int)
        if not low <= value <= high:
            self.fail(name, f"is {str(value)[:MAX_SHOWN]}, it must lie in [{low}, {high}]")
        return value

    def number(self, name: str) -> float:
        self.read.add(name)
        value = self.raw.get(name)
        if not _is_number(value):
            self.fail(name, f"is {ascii(value)[:MAX_SHOWN]}, not a number")
        return float(value)  # type: ignore[arg-type]

    def ids(self, name: str) -> list[int]:
        """Whole numbers of 32 bits."""
        values: list[int] = self.take(name, list)
        for place, value in enumerate(values):
            if type(value) is not int or not 0 <= value <= MAX_ID:
                self.fail(f"{name}[{place}]", f"is {ascii(value)[:MAX_SHOWN]}, not a whole number of 32 bits")
        return values

    def scores(self, name: str) -> list[Scored] | None:
        self.read.add(name)
        if name not in self.raw:
            return None
        found = []
        for place, value in enumerate(self.take(name, list)):
            match value:
                case [logprob, [*top], int(rank)] if (
                    _is_number(logprob) and 0 <= rank <= MAX_ID and all(map(_is_top, top))
                ):
                    found.append(Scored(float(logprob), tuple((one[0], float(one[1])) for one in top), rank))
                case _:
                    self.fail(f"{name}[{place}]", "is not [logprob, [[id, logprob], ...], rank]")
        return found

    def sampling(self, name: str) -> attention_pb2.Sampling:
        raw = self.take(name, dict)
        try:
            return ParseDict(raw, attention_pb2.Sampling())
        except (ParseError, ValueError, TypeError, RecursionError) as error:
            self.fail(name, f"cannot be used: {ascii(str(error))[1:-1][:200]}")


def _is_top(value: Any) -> bool:
    return (
        type(value) is list
        and len(value) == 2
        and type(value[0]) is int
        and 0 <= value[0] <= MAX_ID
        and _is_number(value[1])
    )


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < 3e38


def _no_number(text: str) -> NoReturn:
    raise ValueError(text)


def _line(values: dict[str, Any], lists: Mapping[str, Sequence[Any]] = MappingProxyType({})) -> bytes:
    """`lists` are written in parts: each takes the interpreter from the event loop for as long as it lasts."""
    parts = [_dumps(values)[:-1]]
    for name, entries in lists.items():
        pieces = (entries[start : start + PART] for start in range(0, len(entries), PART))
        parts.append(f',"{name}":[' + ",".join(_dumps(list(piece))[1:-1] for piece in pieces) + "]")
    return "".join([*parts, "}\n"]).encode()


def _dumps(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), allow_nan=False)
