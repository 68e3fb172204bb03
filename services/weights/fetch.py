"""Fetches a model into a folder: all that its readers read, resumable, each file compared with its digest."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import TypeVar

import structlog

from services.weights.digests import hasher
from services.weights.errors import BadSource, NoSpace, SourceUnavailable
from services.weights.folder import GB, SLICES, Complete, Folder, writing
from services.weights.manifest import FILE, Manifest, source_manifest
from services.weights.progress import Progress
from services.weights.source import RemoteFile, Source, is_read
from services.weights.transfer import Retry, Stopped, Transfer, hash_file

log = structlog.get_logger(__name__)

ALL, NO_WEIGHTS = "all", "no weights"  # scopes; `slices.py` has another
Found = TypeVar("Found")


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """`weights`: of the files, also those of weights. `manifest`: instead of the one beside them. `unverified`: files
    without a digest are taken as they come. `verify`: files that are there are compared with their digests again."""

    weights: bool = True
    manifest: Manifest | None = None
    unverified: bool = False
    verify: bool = False
    connections: int = 8
    retry: Retry = field(default_factory=Retry)

    @property
    def scope(self) -> str:
        return ALL if self.weights else NO_WEIGHTS


def fetch(source: Source, folder: Folder, options: Options) -> Complete:
    """Makes the folder complete, and says so in it. Raises FetchError."""
    folder.make()
    with folder.locked(lambda: log.info("another process fetches into this folder", folder=str(folder.path))):
        done = folder.complete()
        if done is not None and is_enough(done, source.address, options.scope) and not options.verify:
            log.info("the weights are there", folder=str(folder.path), address=done.address)
            return done
        folder.unmark()
        files, _ = listed(source, options)
        _check_digests(source, files, options)
        there = [file for file in files if _is_there(folder, file, options.verify)]
        missing = [file for file in files if file not in there]
        _check_space(folder, missing)
        _transfer(source, folder, missing, files, options)
        if options.weights:
            with writing(folder.path):
                (folder.own / SLICES).unlink(missing_ok=True)
        found = Complete(source.address, options.scope, {file.name: file.size for file in files})
        folder.mark_complete(found)
        return found


def is_enough(done: Complete, address: str, scope: str) -> bool:
    """Whether a folder has what is asked for."""
    return done.address == address and (scope == NO_WEIGHTS or done.scope in (ALL, scope))


def listed(source: Source, options: Options) -> tuple[list[RemoteFile], Manifest | None]:
    """The files to have, with their digests, and the manifest they are from if there is one. Raises FetchError."""
    every = tried(source.files, options.retry)
    manifest = options.manifest or tried(lambda: source_manifest(source, every), options.retry)
    files = [file for file in every if is_read(file.name) and file.name != FILE]
    if not any(file.name == "config.json" for file in files):
        raise BadSource(f"{source.address}: has no config.json")
    if manifest is not None:
        files = manifest.apply(files)
    return [file for file in files if options.weights or not file.has_weights], manifest


def tried(call: Callable[[], Found], retry: Retry) -> Found:
    """Calls again while the source is unavailable. Raises FetchError."""
    failures = 0
    while True:
        try:
            return call()
        except SourceUnavailable as error:
            failures += 1
            if failures >= retry.tries:
                raise
            log.warning("the source does not answer", error=str(error), pause_s=retry.pause_s(failures))
            time.sleep(retry.pause_s(failures))


def _check_digests(source: Source, files: Iterable[RemoteFile], options: Options) -> None:
    without = [file.name for file in files if file.digest is None]
    if without and not options.unverified:
        raise BadSource(
            f"{without[0]}: {source.address} has no digest of it to compare ({len(without)} such files): make one with"
            " `caracal manifest` from the original and upload it beside the weights, or fetch with --unverified"
        )


def _is_there(folder: Folder, file: RemoteFile, verify: bool) -> bool:
    """Whether the folder has the file, by its name, size and digest; the digest is computed once."""
    if folder.size(file.name) != file.size:
        return False
    if not verify and folder.verified().get(file.name) == file.version:
        return True
    if file.digest is None:
        return False
    found = hasher(file.digest, file.size)
    with writing(folder.path):
        hash_file(folder.path / file.name, found)
    if not found.matches():
        log.warning("a file is not what its digest says and is fetched again", file=file.name, digest=str(file.digest))
        return False
    folder.note_verified(file)
    return True


def _check_space(folder: Folder, missing: Sequence[RemoteFile]) -> None:
    """Raises NoSpace before the first byte."""
    needed = sum(file.size - _part_bytes(folder, file) for file in missing)
    free = folder.free_bytes()
    if needed > free:
        raise NoSpace(
            f"{folder.path}: {needed / GB:.3f} GB are to come, in {len(missing)} files, and the disk has"
            f" {free / GB:.3f} GB free"
        )


def _part_bytes(folder: Folder, file: RemoteFile) -> int:
    try:
        return min(file.size, folder.part(file).stat().st_size)
    except OSError:
        return 0


def _transfer(
    source: Source, folder: Folder, missing: Sequence[RemoteFile], files: Sequence[RemoteFile], options: Options
) -> None:
    total = sum(file.size for file in files)
    there = total - sum(file.size - _part_bytes(folder, file) for file in missing)
    progress = Progress(folder, source.address, len(files), total, there)
    for _ in range(len(files) - len(missing)):
        progress.file_done()
    log.info("fetching weights", address=source.address, folder=str(folder.path), **progress.figures())
    transfer = Transfer(source, folder, progress, options.retry)
    with ThreadPoolExecutor(options.connections, "fetch") as threads:
        largest_first = sorted(missing, key=lambda file: -file.size)
        running = [threads.submit(transfer.run, file) for file in largest_first]
        try:
            wait(running, return_when=FIRST_EXCEPTION)
        finally:
            transfer.stop()
            for one in running:
                one.cancel()
    errors = [error for one in running if not one.cancelled() and (error := one.exception()) is not None]
    if errors:
        raise next((error for error in errors if not isinstance(error, Stopped)), errors[0])
    log.info("the weights are there", folder=str(folder.path), **progress.figures())
