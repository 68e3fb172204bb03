"""The manifest of a model: a digest of every file, and of every block of its weights, so that parts can be checked.

`caracal manifest DIR` writes it beside the weights before they are uploaded; of those that are at a store already,
`remote_manifest.py` makes it. It also has the digest by which workers compare their weights, which nobody could compute
from parts.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from services.checkpoint.regular_files import open_regular, read_whole
from services.weights.digests import SHA256, Digest
from services.weights.errors import BadSource
from services.weights.source import RemoteFile, Source, is_read

FILE = "caracal-manifest.json"
FORMAT = 1
BLOCK_BYTES = 4 << 20
_BLOCK_DIGITS = 32  # of a block's SHA-256 in hexadecimal: half of it
MOST_BYTES = 1 << 30
_THREADS = 4

Report = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Listed:
    """A file: its size in bytes, its SHA-256, and what its blocks begin with in theirs, if it has weights."""

    size: int
    sha256: str
    blocks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Manifest:
    """`digest`: that of the whole checkpoint (`Checkpoint.digest`)."""

    digest: str
    files: dict[str, Listed] = field(default_factory=dict)

    def to_json(self) -> str:
        files = {
            name: {"size": one.size, "sha256": one.sha256, **({"blocks": one.blocks} if one.blocks else {})}
            for name, one in self.files.items()
        }
        return json.dumps({"format": FORMAT, "block_bytes": BLOCK_BYTES, "digest": self.digest, "files": files})

    def apply(self, files: Iterable[RemoteFile]) -> list[RemoteFile]:
        """The files with their digests from here. Raises BadSource for one of another size, and one that is missing."""
        found = []
        for file in files:
            listed = self.files.get(file.name)
            if listed is not None:
                if listed.size != file.size:
                    raise BadSource(f"{file.name}: has {file.size} bytes, and {listed.size} in {FILE}")
                file = RemoteFile(file.name, file.size, file.version, Digest(SHA256, listed.sha256))
            found.append(file)
        if missing := sorted(self.files.keys() - {file.name for file in found}):
            raise BadSource(f"{missing[0]}: is in {FILE}, and not among the files")
        return found


def parse_manifest(text: bytes) -> Manifest:
    """Raises BadSource."""
    try:
        raw: Any = json.loads(text)
        if raw["format"] != FORMAT or raw["block_bytes"] != BLOCK_BYTES:
            raise BadSource(f"{FILE}: is of another version of caracal: make it anew")
        files = {name: _listed(name, one) for name, one in raw["files"].items()}
        return Manifest(_hex(raw["digest"], 64), files)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise BadSource(f"{FILE}: is no manifest: {type(error).__name__}: {error}") from None


def _listed(name: str, raw: Any) -> Listed:
    size, blocks = raw["size"], tuple(_hex(each, _BLOCK_DIGITS) for each in raw.get("blocks", ()))
    is_read(name)
    if type(size) is not int or size < 0 or (blocks and len(blocks) != -(-size // BLOCK_BYTES)):
        raise ValueError(f"{name}: its size and its blocks do not go together")
    return Listed(size, _hex(raw["sha256"], 64), blocks)


def _hex(value: Any, digits: int) -> str:
    if not isinstance(value, str) or len(value) != digits or not set(value) <= set("0123456789abcdef"):
        raise ValueError(f"{str(value)[:80]!r} is not {digits} hexadecimal digits")
    return value


def source_manifest(source: Source, files: Iterable[RemoteFile]) -> Manifest | None:
    """The manifest among a source's files; None without one. Raises FetchError."""
    found = next((file for file in files if file.name == FILE), None)
    if found is None:
        return None
    if found.size > MOST_BYTES:
        raise BadSource(f"{FILE}: has {found.size} bytes")
    return parse_manifest(b"".join(source.read(found, 0, found.size)))


def manifest_of_file(path: Path) -> Manifest:
    """Raises BadSource."""
    try:
        return parse_manifest(read_whole(path, MOST_BYTES))
    except OSError as error:
        raise BadSource(f"{path}: {error.strerror or error}") from None


def make_manifest(folder: Path, digest: str, report: Report) -> Manifest:
    """Reads a folder's files, several at once. `report`: bytes done and in all. Raises OSError."""
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    names = {str(path.relative_to(folder)): path for path in paths}
    sizes = {name: path.stat().st_size for name, path in names.items() if name != FILE and is_read(name)}
    total, done = sum(sizes.values()), 0
    with ThreadPoolExecutor(_THREADS) as threads:
        found = {}
        for name, one in zip(sizes, threads.map(lambda name: listed_file(names[name]), sizes), strict=True):
            found[name] = one
            done += sizes[name]
            report(done, total)
    return Manifest(digest, found)


def block_digest(block: bytes | memoryview) -> str:
    return hashlib.sha256(block).hexdigest()[:_BLOCK_DIGITS]


def listed_file(path: Path) -> Listed:
    """A file as the manifest has it. Raises OSError."""
    whole, blocks, size = hashlib.sha256(), [], 0
    with open_regular(path) as raw:
        while block := _block(raw):
            whole.update(block)
            blocks.append(block_digest(block))
            size += len(block)
    return Listed(size, whole.hexdigest(), tuple(blocks) if path.suffix == ".safetensors" else ())


def _block(raw: Any) -> bytes:
    """The next block; an unbuffered read may give less than was asked for."""
    parts, left = [], BLOCK_BYTES
    while left and (part := raw.read(left)):
        parts.append(part)
        left -= len(part)
    return b"".join(parts)
