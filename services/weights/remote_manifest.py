"""The manifest of a model where it lies: its weights are streamed once and not kept, or not read where that suffices.

A source that gives SHA-256 has what a manifest needs to check whole files; blocks, for slices, nobody gives. What is
kept in a scratch folder are the small files, and of the weights their headers and the ends of their tensors, by which
workers compare them.
"""

from __future__ import annotations

import os
import threading
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import replace
from itertools import islice, takewhile
from pathlib import Path
from typing import TypeVar

import structlog

from services.checkpoint.reader import Checkpoint
from services.checkpoint.safetensors import MAX_HEADER_BYTES, stored_tensors
from services.checkpoint.sampled_digest import sampled, sampled_ranges
from services.weights.digests import SHA256, hasher
from services.weights.errors import BadSource, Damaged, SourceUnavailable
from services.weights.fetch import Options, fetch, listed, tried
from services.weights.folder import Folder, writing
from services.weights.manifest import BLOCK_BYTES, Listed, Manifest, Report, block_digest, listed_file
from services.weights.source import RemoteFile, Source
from services.weights.transfer import FETCHES, Retry, Stopped

log = structlog.get_logger(__name__)

NEAR_BYTES = 64 << 10  # ranges that are no further apart are one read

Range = tuple[int, int]  # [begin, end) of a file
Found = TypeVar("Found")


def manifest_of_source(source: Source, scratch: Path, options: Options, report: Report, *, blocks: bool) -> Manifest:
    """`blocks`: with their digests, for which all weights are read; else only files of which no SHA-256 is known.

    `scratch`: an empty folder. `report`: bytes done and in all. Raises FetchError, CheckpointError, OSError.
    """
    # Not by a manifest that lies there, either: it may be of another version.
    all_of_it = replace(options, manifest=Manifest(""), unverified=True, weights=True, verify=False)
    weights = [file for file in listed(source, all_of_it)[0] if file.has_weights]
    small = fetch(source, Folder(scratch), replace(all_of_it, weights=False))
    files = {name: listed_file(scratch / name) for name in small.sizes}
    reader = _Weights(source, scratch, weights, options.retry, report, blocks=blocks)
    with ThreadPoolExecutor(options.connections, "manifest") as threads:
        headers = dict(zip([file.name for file in weights], reader.each(threads, reader.make), strict=True))
        places = _places(scratch, headers)
        found = reader.each(threads, lambda file: reader.listed(file, places[file.name]))
        files |= dict(zip([file.name for file in weights], found, strict=True))
    return Manifest(Checkpoint.open(scratch).digest, dict(sorted(files.items())))


def _places(scratch: Path, headers: Mapping[str, int]) -> dict[str, list[Range]]:
    """What of each file counts in the model's digest, its header too, sorted and apart from each other."""
    stored = stored_tensors(scratch)
    places: dict[str, list[Range]] = {name: [(0, end)] for name, end in headers.items()}
    for name in sampled(stored):
        where = stored[name]
        places[where.file.name] += sampled_ranges(where)
    return {name: _joined(its, 0) for name, its in places.items()}


def _joined(ranges: Iterable[Range], near: int) -> list[Range]:
    """Sorted ranges, of which those that overlap or lie within `near` bytes are one."""
    found: list[Range] = []
    for begin, end in sorted(ranges):
        if found and begin <= found[-1][1] + near:
            found[-1] = found[-1][0], max(end, found[-1][1])
        else:
            found.append((begin, end))
    return found


class _Weights:
    """The files of weights of one source; threads share it. The first error ends what the others do."""

    def __init__(
        self, source: Source, scratch: Path, files: Sequence[RemoteFile], retry: Retry, report: Report, *, blocks: bool
    ) -> None:
        self._source, self._scratch, self._files, self._retry = source, scratch, files, retry
        self._blocks, self._report = blocks, report
        self._stop, self._lock = threading.Event(), threading.Lock()
        self._done, self._total = 0, sum(file.size for file in files if self._is_streamed(file))

    def each(self, threads: ThreadPoolExecutor, call: Callable[[RemoteFile], Found]) -> list[Found]:
        running = [threads.submit(call, file) for file in self._files]
        try:
            wait(running, return_when=FIRST_EXCEPTION)
            errors = [error for one in running if one.done() and (error := one.exception()) is not None]
            if errors:
                raise next((error for error in errors if not isinstance(error, Stopped)), errors[0])
            return [one.result() for one in running]
        except BaseException:
            self._stop.set()
            for one in running:
                one.cancel()
            raise

    def make(self, file: RemoteFile) -> int:
        """Makes a file of the full size with its header alone; returns where that ends."""
        with writing(self._scratch), (self._scratch / file.name).open("wb") as out:
            out.truncate(file.size)
        length = int.from_bytes(self._copy(file, 0, min(8, file.size)), "little")
        if file.size < 8 or length > min(MAX_HEADER_BYTES, file.size - 8):
            raise BadSource(f"{file.name}: its header of {length} bytes is not in {file.size} bytes of file")
        self._copy(file, 8, 8 + length)
        return 8 + length

    def listed(self, file: RemoteFile, places: Sequence[Range]) -> Listed:
        """The file as the manifest has it; its places lie in the scratch folder then."""
        if not self._is_streamed(file):
            assert file.digest is not None
            for begin, end in _joined(places, NEAR_BYTES):
                self._copy(file, begin, end)
            return Listed(file.size, file.digest.value)
        for _ in range(FETCHES):
            compared = hasher(file.digest, file.size)
            known = file.digest is None or file.digest.kind == SHA256  # then this is the one for the manifest, too
            whole = compared if known else hasher(None, file.size)
            blocks = []
            for begin, block in _in_blocks(self._pieces(file)):
                for each in {id(one): one for one in (compared, whole)}.values():
                    each.update(block)
                blocks.append(block_digest(block))
                self._keep(file, begin, block, places)
            if compared.matches():
                return Listed(file.size, whole.found(), tuple(blocks) if self._blocks else ())
            log.warning("a file is damaged and is read again", file=file.name, digest=str(file.digest))
            self._count(-file.size)
        raise Damaged(f"{file.name}: its bytes have {compared.found()}, not {file.digest}; it was read {FETCHES} times")

    def _is_streamed(self, file: RemoteFile) -> bool:
        return self._blocks or file.digest is None or file.digest.kind != SHA256

    def _pieces(self, file: RemoteFile) -> Iterator[bytes]:
        """All bytes, in order. It goes on where the source broke off."""
        there = failures = 0
        while there < file.size:
            error = SourceUnavailable(f"{file.name}: broke off")
            try:
                for piece in self._source.read(file, there, file.size):
                    if self._stop.is_set():
                        raise Stopped(file.name)
                    there, failures = there + len(piece), 0
                    self._count(len(piece))
                    yield piece
            except SourceUnavailable as caught:
                error = caught
            if there < file.size:
                failures += 1
                if failures >= self._retry.tries:
                    raise SourceUnavailable(f"{error}; no byte came in {failures} tries")
                pause_s = self._retry.pause_s(failures)
                log.warning("reading broke off and goes on", file=file.name, error=str(error), pause_s=pause_s)
                if self._stop.wait(pause_s):
                    raise Stopped(file.name)

    def _copy(self, file: RemoteFile, begin: int, end: int) -> bytes:
        """Reads a range into the scratch folder."""
        found = tried(lambda: b"".join(self._source.read(file, begin, end)), self._retry) if end > begin else b""
        self._keep(file, begin, found, [(begin, end)])
        return found

    def _keep(self, file: RemoteFile, begin: int, content: bytes, places: Sequence[Range]) -> None:
        """Writes what of the content is one of the places."""
        view, end = memoryview(content), begin + len(content)
        ahead = islice(places, bisect_right(places, begin, key=lambda one: one[1]), None)
        wanted = [*takewhile(lambda one: one[0] < end, ahead)]
        if not wanted:
            return
        with writing(self._scratch), (self._scratch / file.name).open("r+b", buffering=0) as out:
            for first, last in wanted:
                at = max(first, begin)
                os.pwrite(out.fileno(), view[at - begin : min(last, end) - begin], at)

    def _count(self, size: int) -> None:
        with self._lock:
            self._done += size
            self._report(self._done, self._total)


def _in_blocks(pieces: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
    """The same bytes in blocks, each with its first byte's place."""
    block, begin = bytearray(), 0
    for piece in pieces:
        view = memoryview(piece)
        while view:
            taken = view[: BLOCK_BYTES - len(block)]
            block += taken
            view = view[len(taken) :]
            if len(block) == BLOCK_BYTES:
                yield begin, bytes(block)
                begin += len(block)
                block.clear()
    if block:
        yield begin, bytes(block)
