"""Slices of weights: files of the full size without content, whose blocks are fetched when a worker first reads them.

So a worker's disk has what it reads and no more: an expert worker's has the experts that were placed on it. Each block
is compared with its digest in the model's manifest before it is written.
"""

from __future__ import annotations

import errno
import hashlib
import os
import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import structlog

from services.weights.address import parse_address
from services.weights.errors import BadSource, Damaged, FetchError, SourceUnavailable
from services.weights.fetch import ALL, Options, fetch, is_enough, listed, tried
from services.weights.folder import OWN, SLICES, Complete, Folder, disk_error, writing
from services.weights.manifest import BLOCK_BYTES, FILE, Manifest, block_digest, manifest_of_file
from services.weights.source import RemoteFile, Source
from services.weights.stores import open_source
from services.weights.transfer import FETCHES, Retry

log = structlog.get_logger(__name__)

SCOPE = "slices"
BLOCKS = "blocks"
THREADS = 8  # blocks that are fetched at once
RETRY = Retry(tries=5, first_s=0.5, longest_s=4.0)  # of a worker, whose leader waits for the experts


def prepare_slices(source: Source, folder: Folder, options: Options) -> None:
    """Fetches all files without weights, and the headers of those with weights. Raises FetchError.

    A folder that has all of it stays as it is.
    """
    done = folder.complete()
    if done is not None and is_enough(done, source.address, ALL):
        return
    files, manifest = listed(source, options)
    if manifest is None:
        raise BadSource(f"{source.address}: has no {FILE}, by which slices are checked: `caracal manifest` makes it")
    weights = [file for file in files if file.has_weights]
    if without := [file.name for file in weights if not _blocks(manifest, file.name)]:
        raise BadSource(f"{without[0]}: {FILE} has no blocks of it: make it anew")
    fetch(source, folder, replace(options, weights=False, manifest=_small(manifest)))
    with writing(folder.path):
        (folder.own / BLOCKS).mkdir(exist_ok=True)
    folder.unmark()
    with folder.locked(lambda: None):
        text = manifest.to_json()
        sizes = {file.name: [file.size, file.version] for file in weights}
        state = {"address": source.pinned, "files": sizes, "manifest": hashlib.sha256(text.encode()).hexdigest()}
        if folder.state(SLICES) != state:
            _drop_blocks(folder, weights)
            with writing(folder.path):
                (folder.own / FILE).write_text(text, encoding="utf-8")
            folder.write(SLICES, state)
        slices = Slices(folder, source, manifest, {file.name: file for file in weights}, options.retry)
        for file in weights:
            slices.make(file)
        small = {file.name: file.size for file in files}
        folder.mark_complete(Complete(source.address, SCOPE, small))


def _drop_blocks(folder: Folder, weights: Iterable[RemoteFile]) -> None:
    """Blocks of other files, or of other versions of them, are not kept."""
    with writing(folder.path):
        (folder.own / SLICES).unlink(missing_ok=True)
        for file in weights:
            (folder.path / file.name).unlink(missing_ok=True)
            _have(folder, file.name).unlink(missing_ok=True)


def _have(folder: Folder, name: str) -> Path:
    return folder.own / BLOCKS / name.replace("/", "~")


def _small(manifest: Manifest) -> Manifest:
    return Manifest(manifest.digest, {name: one for name, one in manifest.files.items() if not one.blocks})


def _blocks(manifest: Manifest, name: str) -> tuple[str, ...]:
    return manifest.files[name].blocks if name in manifest.files else ()


def slices_of(path: Path) -> Slices | None:
    """The slices of a folder that `prepare_slices` made; None for any other. Raises FetchError."""
    folder = Folder(path)
    if not (path / OWN / SLICES).exists():
        return None
    try:
        state = folder.state(SLICES)
        files = {
            name: RemoteFile(name, int(size), str(version), None) for name, (size, version) in state["files"].items()
        }
        source = open_source(parse_address(str(state["address"])))
    except (KeyError, TypeError, ValueError, AttributeError):
        raise BadSource(f"{path / OWN / SLICES}: cannot be read: fetch the slices again") from None
    return Slices(folder, source, manifest_of_file(folder.own / FILE), files, RETRY)


class Slices:
    """The blocks of one folder's weights; threads may share it, and processes the folder.

    `digest`: that of the whole checkpoint, from the manifest.
    """

    def __init__(
        self, folder: Folder, source: Source, manifest: Manifest, files: dict[str, RemoteFile], retry: Retry
    ) -> None:
        self._folder, self._source, self._manifest, self._files = folder, source, manifest, files
        self._retry, self.digest = retry, manifest.digest
        self._lock = threading.Lock()
        self._open: dict[str, _Sparse] = {}
        self._threads = ThreadPoolExecutor(THREADS, "weights")
        self.fetched_bytes = 0

    def ensure(self, file: Path, begin: int, end: int) -> None:
        """Makes the bytes [begin, end) of a file readable. Raises OSError with the reason.

        It is EAGAIN while the source does not answer.
        """
        name = str(file.relative_to(self._folder.path))
        if name not in self._files:
            return
        try:
            sparse = self._sparse(name)
            missing = sparse.missing(begin, end)
            for _ in self._threads.map(lambda block: self._fetch(name, sparse, block), missing):
                pass
        except FetchError as error:
            again = isinstance(error, SourceUnavailable)
            raise OSError(errno.EAGAIN if again else errno.EIO, str(error)) from None

    def make(self, file: RemoteFile) -> None:
        """Makes a file without content, and fetches its header. Raises FetchError."""
        path = self._folder.path / file.name
        with writing(self._folder.path), path.open("ab") as out:
            out.truncate(file.size)
        try:
            self.ensure(path, 0, min(8, file.size))
            with path.open("rb") as raw:
                header = int.from_bytes(raw.read(8), "little")
            self.ensure(path, 0, min(8 + header, file.size))
        except OSError as error:
            kind = SourceUnavailable if error.errno == errno.EAGAIN else BadSource
            raise kind(error.strerror or str(error)) from None

    def _sparse(self, name: str) -> _Sparse:
        with self._lock:
            if name not in self._open:
                blocks = len(_blocks(self._manifest, name))
                with writing(self._folder.path):
                    self._open[name] = _Sparse(self._folder.path / name, _have(self._folder, name), blocks)
            return self._open[name]

    def _fetch(self, name: str, sparse: _Sparse, block: int) -> None:
        file, begin = self._files[name], block * BLOCK_BYTES
        end, wanted = min(file.size, begin + BLOCK_BYTES), self._manifest.files[name].blocks[block]
        for _ in range(FETCHES):
            found = tried(lambda: b"".join(self._source.read(file, begin, end)), self._retry)
            if block_digest(found) == wanted:
                sparse.put(block, found)
                self.fetched_bytes += len(found)
                return
            log.warning("a block is damaged", file=name, begin=begin)
        raise Damaged(f"{name}: bytes {begin} to {end} are not those of the manifest, in {FETCHES} fetches")


class _Sparse:
    """A file and which of its blocks it has, as one byte for each in a file of its own, written after the block."""

    def __init__(self, path: Path, have: Path, blocks: int) -> None:
        self._path = path
        self._file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        self._have = os.open(have, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        if os.fstat(self._have).st_size != blocks:
            os.ftruncate(self._have, 0)
            os.ftruncate(self._have, blocks)

    def missing(self, begin: int, end: int) -> list[int]:
        """The blocks of [begin, end) that are not there."""
        first, last = begin // BLOCK_BYTES, -(-end // BLOCK_BYTES)
        return [first + number for number, has in enumerate(os.pread(self._have, last - first, first)) if not has]

    def put(self, block: int, content: bytes) -> None:
        """Raises NoSpace."""
        view, at = memoryview(content), block * BLOCK_BYTES
        try:
            while view:
                written = os.pwrite(self._file, view, at)
                view, at = view[written:], at + written
            os.fdatasync(self._file)
            os.pwrite(self._have, b"\1", block)
        except OSError as error:
            raise disk_error(self._path, error, len(view)) from None
