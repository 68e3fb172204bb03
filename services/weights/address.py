"""Addresses of weights: hf://ORG/NAME@REVISION, s3://BUCKET/PREFIX, gs://BUCKET/PREFIX, https://HOST/FOLDER."""

from __future__ import annotations

import re
from dataclasses import dataclass

from services.weights.errors import BadSource

_FORM = re.compile(r"(hf|s3|gs|https?)://([^/]+)(?:/(.*))?", re.ASCII)
_HUB = re.compile(r"([A-Za-z0-9][\w.-]*/[\w.-]+)@([^@/\s]+)", re.ASCII)
_SERVER = re.compile(r"([A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?", re.ASCII)
_FOLDER = re.compile(r"[^?#\s\\]*", re.ASCII)
FORMS = "hf://ORG/NAME@REVISION, s3://BUCKET/PREFIX, gs://BUCKET/PREFIX or https://HOST/FOLDER"
_BUCKET = re.compile(r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]", re.ASCII)


@dataclass(frozen=True, slots=True)
class Address:
    """`place`: ORG/NAME on a hub, a bucket, or a web server with its port. `revision`: on a hub. `prefix`: the folder
    elsewhere, without outer slashes."""

    scheme: str
    place: str
    prefix: str = ""
    revision: str = ""

    def __str__(self) -> str:
        if self.scheme == "hf":
            return f"hf://{self.place}@{self.revision}"
        return f"{self.scheme}://{self.place}" + (f"/{self.prefix}" if self.prefix else "")


def parse_address(text: str) -> Address:
    """Raises BadSource."""
    found = _FORM.fullmatch(text)
    if not found or not text.isprintable():
        raise BadSource(f"{text!r} is no address of weights: {FORMS}")
    scheme, place, rest = found[1], found[2], found[3] or ""
    if scheme.startswith("http"):
        if not _SERVER.fullmatch(place) or not _FOLDER.fullmatch(rest) or ".." in rest.split("/"):
            raise BadSource(f"{text!r} is no folder of a web server: https://HOST:PORT/FOLDER, without user or query")
        return Address(scheme, place, rest.strip("/"))
    if scheme != "hf":
        if not _BUCKET.fullmatch(place):
            raise BadSource(f"{text}: {place!r} is no name of a bucket")
        return Address(scheme, place, rest.strip("/"))
    named = _HUB.fullmatch(f"{place}/{rest}")
    if not named:
        raise BadSource(f"{text}: write hf://ORG/NAME@REVISION; without a revision two fetches could get other weights")
    return Address(scheme, named[1], revision=named[2])
