"""A folder of a web server, which lists nothing: what it has is named by its manifest, by the index of its weights, and
by what readers look for. Nobody logs in; proxies of the environment and CARACAL_FETCH_CA hold.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import quote

import httpx2

from services.weights.address import Address
from services.weights.authorities import authorities_file, certificate_fault, http_client
from services.weights.digests import SHA256, Digest
from services.weights.errors import BadSource, FetchError, SourceUnavailable
from services.weights.manifest import FILE, MOST_BYTES, parse_manifest
from services.weights.source import WEIGHTS, RemoteFile, is_read

CONFIG, INDEX, SINGLE = "config.json", "model.safetensors.index.json", "model.safetensors"
OPTIONAL = (
    *("added_tokens.json", "chat_template.jinja", "generation_config.json", "special_tokens_map.json"),
    *("tokenizer.json", "tokenizer_config.json", "vocab.json", FILE, INDEX),
)
TIMEOUT_S = 30.0  # for the connection, and without a byte
ASKED = 16  # files whose sizes are asked for at once
_TRY_AGAIN = {408, 425, 429, 500, 502, 503, 504}
_ABSENT = {404, 410}
_REPR_DIGEST = re.compile(r"sha-256=:([A-Za-z0-9+/=]{44}):")


class WebSource:
    """The files below one URL."""

    def __init__(self, address: Address) -> None:
        """Raises BadSource for authorities that cannot be read."""
        self.address = self.pinned = str(address)
        self._client = http_client(authorities_file())

    def files(self) -> list[RemoteFile]:
        names = self._required()
        with ThreadPoolExecutor(ASKED, "sizes") as threads:
            every = sorted(names | set(OPTIONAL))
            found = dict(zip(every, threads.map(self._look, every), strict=True))
        if missing := [name for name in every if name in names and found[name] is None]:
            raise BadSource(f"{self.address}: has no {missing[0]}")
        return [file for file in found.values() if file is not None]

    def read(self, file: RemoteFile, begin: int, end: int) -> Iterator[bytes]:
        headers = {"Range": f"bytes={begin}-{end - 1}", "Accept-Encoding": "identity"}
        if file.version.startswith('"'):  # a strong one
            headers["If-Match"] = file.version
        left = end - begin
        try:
            with self._client.stream("GET", self._url(file.name), headers=headers, timeout=TIMEOUT_S) as answer:
                whole = answer.status_code == 200 and left == file.size
                if not whole and (answer.status_code != 206 or not _starts_at(answer, begin)):
                    raise self._failed(answer.status_code, file.name)
                for piece in answer.iter_raw():
                    left -= len(piece)
                    if left < 0:
                        raise SourceUnavailable(f"{file.name}: {self.address} sends more than was asked for")
                    yield piece
        except httpx2.HTTPError as error:
            raise self._unreachable(file.name, error) from None
        if left:
            raise SourceUnavailable(f"{file.name}: {self.address} broke off {left} bytes before the end")

    def _required(self) -> set[str]:
        """The names of files that have to be there."""
        names = {CONFIG}
        if (text := self._text(FILE)) is not None:
            names |= parse_manifest(text).files.keys()
        index = self._text(INDEX)
        if index is None:
            return names | {SINGLE}
        try:
            shards = set(json.loads(index)["weight_map"].values())
            if not all(isinstance(name, str) and name.endswith(WEIGHTS) and is_read(name) for name in shards):
                raise ValueError("it names what is no file of weights")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise BadSource(f"{INDEX}: is no index of weights: {type(error).__name__}: {error}") from None
        return names | shards

    def _text(self, name: str) -> bytes | None:
        """A small file; None when it is not there."""
        file = self._look(name)
        if file is None:
            return None
        if file.size > MOST_BYTES:
            raise BadSource(f"{name}: has {file.size} bytes")
        return b"".join(self.read(file, 0, file.size)) if file.size else b""

    def _look(self, name: str) -> RemoteFile | None:
        try:
            answer = self._client.head(self._url(name), headers={"Accept-Encoding": "identity"}, timeout=TIMEOUT_S)
        except httpx2.HTTPError as error:
            raise self._unreachable(name, error) from None
        if answer.status_code in _ABSENT:
            return None
        size = answer.headers.get("Content-Length", "")
        if answer.status_code != 200:
            raise self._failed(answer.status_code, name)
        if not re.fullmatch("[0-9]{1,18}", size):
            raise BadSource(f"{name}: {self.address} does not say how large it is")
        version = answer.headers.get("ETag", "") or answer.headers.get("Last-Modified", "")
        if not version:
            raise BadSource(f"{name}: {self.address} says neither ETag nor Last-Modified: a change would not be seen")
        return RemoteFile(name, int(size), version, _digest(answer.headers))

    def _url(self, name: str) -> str:
        return f"{self.address}/{quote(name)}"

    def _unreachable(self, name: str, error: httpx2.HTTPError) -> FetchError:
        if fault := certificate_fault(error):
            return BadSource(f"{self.address}: {fault}")
        return SourceUnavailable(f"{name}: {self.address}: {type(error).__name__}: {error}")

    def _failed(self, status: int, name: str) -> FetchError:
        if status == 412:
            return BadSource(f"{name}: has changed at {self.address} since its files were listed")
        where = f"{name}: {self.address} answers {status}"
        if status == 200:
            return BadSource(f"{where} to a request for a part of it: the server has no ranges")
        return SourceUnavailable(where) if status in _TRY_AGAIN else BadSource(where)


def _starts_at(answer: httpx2.Response, begin: int) -> bool:
    """Whether a part is the one that was asked for: else the bytes of another would be taken for it."""
    return bool(answer.headers.get("Content-Range", "").startswith(f"bytes {begin}-"))


def _digest(headers: Mapping[str, str]) -> Digest | None:
    """What the server says of the content (RFC 9530)."""
    found = _REPR_DIGEST.search(headers.get("Repr-Digest", ""))
    try:
        value = base64.b64decode(found[1], validate=True) if found else b""
    except binascii.Error:
        return None
    return Digest(SHA256, value.hex()) if len(value) == 32 else None
