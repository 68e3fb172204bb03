"""HTTP servers that speak as much of a model hub's, a bucket's and a proxy's protocol as a fetch uses, with faults."""

from __future__ import annotations

import base64
import hashlib
import re
import select
import socket
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from urllib.request import ProxyHandler, Request, build_opener

from support.json_server import JsonHandler, JsonServer

REPOSITORY, COMMIT = "org/model", "0123456789abcdef0123456789abcdef01234567"
BUCKET = "weights"
PIECE_BYTES = 64 << 10


@dataclass
class Faults:
    """What goes wrong, by name of file where it is one's. Counts go down with each answer."""

    damaged: dict[str, int] = field(default_factory=dict)  # answers in which one bit is another
    cut_after: dict[str, int] = field(default_factory=dict)  # bytes after which each answer breaks off
    refused: int = 0  # answers of 503
    pause_s: float = 0.0  # after each piece
    on_piece: Callable[[], None] = lambda: None


class FileServer(JsonServer):
    """Serves ranges of files. `ranges`: what was asked for, in order, as (name, begin, end)."""

    def __init__(self, handler: type[JsonHandler], files: Mapping[str, bytes]) -> None:
        super().__init__(handler)
        self.files = dict(files)
        self.faults = Faults()
        self.ranges: list[tuple[str, int, int]] = []
        self.lock = threading.Lock()

    def begins(self, name: str) -> list[int]:
        return [begin for asked, begin, _ in self.ranges if asked == name]

    def bytes_asked(self, name: str) -> int:
        return sum(end - begin for asked, begin, end in self.ranges if asked == name)


class _FileHandler(JsonHandler):
    server: FileServer

    def refused(self) -> bool:
        with self.server.lock:
            refuses = self.server.faults.refused > 0
            self.server.faults.refused -= refuses
        if refuses:
            self.answer(503, {"error": "slow down"})
        return refuses

    def send_file(self, name: str, etag: str = "") -> None:
        content, faults = self.server.files[name], self.server.faults
        begin, end = 0, len(content)
        if found := re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", "")):
            begin, end = int(found[1]), min(end, int(found[2]) + 1)
        with self.server.lock:
            self.server.ranges.append((name, begin, end))
            damaged = faults.damaged.get(name, 0) > 0
            faults.damaged[name] = faults.damaged.get(name, 0) - damaged
        body = bytearray(content[begin:end])
        if damaged and body:
            body[len(body) // 2] ^= 1
        self.send_response(206 if found else 200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Last-Modified", "Mon, 30 Nov 2026 00:00:00 GMT")
        if found:
            self.send_header("Content-Range", f"bytes {begin}-{end - 1}/{len(content)}")
        if etag:
            self.send_header("ETag", etag)
        self.end_headers()
        for at in range(0, min(len(body), faults.cut_after.get(name, len(body))), PIECE_BYTES):
            faults.on_piece()
            last = faults.cut_after.get(name, len(body))
            try:
                self.wfile.write(body[at : min(at + PIECE_BYTES, last)])
            except OSError:
                return  # the reader was killed
            time.sleep(faults.pause_s)


class Hub(FileServer):
    """A hub with one repository. Files in `large` are kept outside git, and served by another address after a redirect.

    `token`: without it nothing is served.
    """

    def __init__(self, files: Mapping[str, bytes], token: str = "") -> None:
        super().__init__(_HubHandler, files)
        self.token = token

    def info(self) -> dict[str, Any]:
        siblings: list[dict[str, Any]] = []
        for name, content in self.files.items():
            git = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
            one: dict[str, Any] = {"rfilename": name, "size": len(content), "blobId": git}
            if name.endswith(".safetensors"):
                sha256 = hashlib.sha256(content).hexdigest()
                one |= {"blobId": "0" * 40, "lfs": {"sha256": sha256, "size": len(content), "pointerSize": 134}}
            siblings.append(one)
        return {"id": REPOSITORY, "modelId": REPOSITORY, "sha": COMMIT, "siblings": siblings}


class _HubHandler(_FileHandler):
    server: Hub

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        if path.startswith("/cdn/"):
            self.send_file(path.removeprefix("/cdn/"))
        elif self.server.token and self.headers.get("Authorization") != f"Bearer {self.server.token}":
            self.answer(401, {"error": "Invalid credentials"})
        elif self.refused():
            return
        elif re.fullmatch(rf"/api/models/{REPOSITORY}/revision/(v1|{COMMIT})", path):
            self.answer(200, self.server.info())
        elif (name := path.removeprefix(f"/{REPOSITORY}/resolve/{COMMIT}/")) in self.server.files:
            if name.endswith(".safetensors"):
                self.send_response(302)
                self.send_header("Location", f"{self.server.url}/cdn/{name}")
                self.send_header("Content-Length", "0")
                self.end_headers()
            else:
                self.send_file(name)
        else:
            self.answer(404, {"error": "Entry not found"})


class Bucket(FileServer):
    """A bucket, in the XML that S3 and Google Cloud Storage have in common. `etags`: of files, instead of their MD5."""

    def __init__(self, files: Mapping[str, bytes], prefix: str = "") -> None:
        super().__init__(_BucketHandler, {f"{prefix}{name}": content for name, content in files.items()})
        self.etags: dict[str, str] = {}

    def etag(self, name: str) -> str:
        return f'"{self.etags.get(name) or hashlib.md5(self.files[name]).hexdigest()}"'


class _BucketHandler(_FileHandler):
    server: Bucket

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        place, _, name = unquote(url.path).lstrip("/").partition("/")
        if self.refused():
            return
        if place != BUCKET:
            self.answer(404, "<Error><Code>NoSuchBucket</Code></Error>")
        elif not name:
            self.answer(200, self._listing(parse_qs(url.query).get("prefix", [""])[0]))
        elif name not in self.server.files:
            self.answer(404, "<Error><Code>NoSuchKey</Code></Error>")
        elif self.headers.get("If-Match", self.server.etag(name)) != self.server.etag(name):
            self.answer(412, "<Error><Code>PreconditionFailed</Code></Error>")
        else:
            self.send_file(name, self.server.etag(name))

    def _listing(self, prefix: str) -> str:
        found = "".join(
            f"<Contents><Key>{name}</Key><LastModified>2026-11-30T00:00:00.000Z</LastModified>"
            f"<ETag>{self.server.etag(name).replace(chr(34), '&quot;')}</ETag><Size>{len(content)}</Size>"
            "<StorageClass>STANDARD</StorageClass></Contents>"
            for name, content in sorted(self.server.files.items())
            if name.startswith(prefix)
        )
        return (
            '<?xml version="1.0" encoding="UTF-8"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
            f"<Name>{BUCKET}</Name><Prefix>{prefix}</Prefix><IsTruncated>false</IsTruncated>{found}</ListBucketResult>"
        )


class Web(FileServer):
    """A web server with files below /models/flash. `says_digests`: in Repr-Digest. `has_ranges`: else it sends all."""

    def __init__(self, files: Mapping[str, bytes]) -> None:
        super().__init__(_WebHandler, files)
        self.says_digests, self.has_ranges = False, True

    @property
    def address(self) -> str:
        return f"{self.url}/models/flash"


class _WebHandler(_FileHandler):
    server: Web

    def do_HEAD(self) -> None:
        if (name := self._name()) is None:
            return
        content = self.server.files[name]
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", self._etag(name))
        if self.server.says_digests:
            value = base64.b64encode(hashlib.sha256(content).digest()).decode()
            self.send_header("Repr-Digest", f"sha-256=:{value}:")
        self.end_headers()

    def do_GET(self) -> None:
        if (name := self._name()) is None or self.refused():
            return
        if self.headers.get("If-Match", self._etag(name)) != self._etag(name):
            self.answer(412, "")
            return
        if not self.server.has_ranges:
            del self.headers["Range"]
        self.send_file(name, self._etag(name))

    def _name(self) -> str | None:
        name = unquote(urlsplit(self.path).path).removeprefix("/models/flash/")
        if name in self.server.files:
            return name
        self.send_response(404)
        self.send_header("Content-Length", "0")
        self.end_headers()
        return None

    def _etag(self, name: str) -> str:
        return f'"{hashlib.md5(self.server.files[name]).hexdigest()}"'


class Proxy(JsonServer):
    """Passes GETs on, and connections to who speaks TLS. `asked`: the URLs, and HOST:PORT of those."""

    def __init__(self) -> None:
        super().__init__(_ProxyHandler)
        self.asked: list[str] = []


class _ProxyHandler(JsonHandler):
    server: Proxy

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        headers = {name: value for name, value in self.headers.items() if name.lower() != "host"}
        with build_opener(ProxyHandler({})).open(Request(self.path, headers=headers)) as found:
            body = found.read()
            self.send_response(found.status)
            for name, value in found.headers.items():
                if name not in ("Server", "Date"):
                    self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

    def do_CONNECT(self) -> None:
        self.server.asked.append(self.path)
        host, _, port = self.path.rpartition(":")
        self.close_connection = True
        with suppress(OSError), socket.create_connection((host, int(port)), 10) as server:
            self.send_response(200)
            self.end_headers()
            _relay(self.connection, server)


def _relay(client: socket.socket, server: socket.socket) -> None:
    """Passes bytes on, both ways, until one end closes."""
    other = {client: server, server: client}
    while True:
        # What TLS has decrypted already makes no socket readable.
        readable = [one for one in other if getattr(one, "pending", int)()] or select.select([*other], [], [], 20)[0]
        for one in readable:
            data = one.recv(1 << 16)
            if not data:
                return
            other[one].sendall(data)
        if not readable:
            return
