"""`caracal fetch`, `caracal manifest` and `caracal prune`: weights of a hub or a bucket, and folders of them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from services.cli.options import fail, usage_error

if TYPE_CHECKING:
    from services.weights.manifest import Manifest

AddressText = Annotated[
    str,
    typer.Argument(metavar="ADDRESS", help="hf://ORG/NAME@REVISION, s3:// or gs://BUCKET/PREFIX, https://HOST/FOLDER."),
]
Into = Annotated[Path, typer.Argument(metavar="DIR", help="The folder to fetch into; it is made.")]


def fetch(
    address: AddressText,
    folder: Into,
    no_weights: Annotated[bool, typer.Option("--no-weights", help="All but the weights, as routers need it.")] = False,
    slices: Annotated[
        bool, typer.Option("--slices", help="No weights yet: workers fetch the blocks that they read.")
    ] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Fetch nothing; wait until another process has.")] = False,
    manifest: Annotated[
        str, typer.Option(help="A manifest elsewhere than beside the weights: a file, or its address.")
    ] = "",
    connections: Annotated[int, typer.Option(min=1, max=256, help="Files that are fetched at once.")] = 8,
    verify: Annotated[
        bool, typer.Option("--verify", help="Compare files that are there with their digests again.")
    ] = False,
    unverified: Annotated[
        bool, typer.Option("--unverified", help="Take files that the source has no digest of as they come.")
    ] = False,
) -> None:
    """Fetch a model from a hub or a bucket. Killed at any moment, it goes on where it was.

    Each file is compared with its digest. Proxies, endpoints and credentials are those of the environment.
    """
    if wait and (slices or verify or unverified or manifest):
        usage_error("--wait goes with --no-weights alone")
    if slices and (no_weights or verify):
        usage_error("--slices goes with neither --no-weights nor --verify")
    from services.weights.address import parse_address
    from services.weights.errors import BadSource, FetchError
    from services.weights.fetch import Options
    from services.weights.fetch import fetch as run
    from services.weights.folder import Folder
    from services.weights.slices import prepare_slices
    from services.weights.stores import open_source
    from services.weights.waiting import wait_until_complete

    _configure_logging("fetch")
    try:
        where = parse_address(address)
    except BadSource as error:
        usage_error(str(error))
    options = Options(weights=not no_weights, unverified=unverified, verify=verify, connections=connections)
    try:
        if wait:
            wait_until_complete(folder, str(where), options.scope)
            return
        source = open_source(where)
        if manifest:
            from dataclasses import replace

            options = replace(options, manifest=_manifest_at(manifest))
        if slices:
            prepare_slices(source, Folder(folder), options)
        else:
            run(source, Folder(folder), options)
    except FetchError as error:
        fail(str(error))


def _configure_logging(command: str) -> None:
    """Logs from the level of CARACAL_LOG_LEVEL on. Ends the program where that is none."""
    from services.process.settings import InvalidSetting, ServiceSettings
    from services.process.telemetry import configure_logging

    level = (os.environ.get("CARACAL_LOG_LEVEL") or "INFO").upper()
    try:
        ServiceSettings.check("log_level", level)
    except InvalidSetting as error:
        usage_error(str(error))
    configure_logging(command, level=level)


def _manifest_at(place: str) -> Manifest:
    """Raises FetchError."""
    from services.weights.address import parse_address
    from services.weights.errors import BadSource
    from services.weights.manifest import FILE, manifest_of_file, source_manifest
    from services.weights.stores import open_source

    if "://" not in place:
        return manifest_of_file(Path(place))
    source = open_source(parse_address(place.removesuffix(f"/{FILE}")))
    found = source_manifest(source, source.files())
    if found is None:
        raise BadSource(f"{place}: has no {FILE}")
    return found


def manifest(
    place: Annotated[str, typer.Argument(metavar="DIR|ADDRESS", help="A complete model: its folder, or its address.")],
    output: Annotated[
        Path | None, typer.Option(help="The file to write, instead of the one in DIR, or in the current folder.")
    ] = None,
    no_blocks: Annotated[
        bool, typer.Option("--no-blocks", help="Of an ADDRESS: not for slices, and weights of known SHA-256 unread.")
    ] = False,
    connections: Annotated[int, typer.Option(min=1, max=256, help="Of an ADDRESS: files that are read at once.")] = 8,
) -> None:
    """Write a model's manifest, to be uploaded with it: digests of its files and of their blocks.

    Of an address all weights are read once, and compared with the digests that the source has; nothing of them is kept.
    """
    from services.checkpoint.errors import CheckpointError
    from services.weights.errors import FetchError
    from services.weights.manifest import FILE

    remote = "://" in place
    if no_blocks and not remote:
        usage_error("--no-blocks goes with an address")
    target = output or (Path(FILE) if remote else Path(place) / FILE)
    try:
        found = _manifest_of(place, connections, blocks=not no_blocks) if remote else _manifest_in(Path(place))
        partial = target.with_name(f".{target.name}")
        partial.write_text(found.to_json(), encoding="utf-8")
        partial.replace(target)
    except FetchError as error:
        fail(str(error))
    except CheckpointError as error:
        usage_error(str(error))
    except OSError as error:
        fail(f"{error.filename or place}: {error.strerror or error}")
    print(f"{target}: {len(found.files)} files")


def _manifest_in(folder: Path) -> Manifest:
    """Raises CheckpointError, OSError."""
    from services.checkpoint.reader import Checkpoint
    from services.process.telemetry import progress
    from services.weights.manifest import make_manifest

    checkpoint = Checkpoint.open(folder)
    with progress("reading weights") as report:
        return make_manifest(folder, checkpoint.digest, report)


def _manifest_of(address: str, connections: int, *, blocks: bool) -> Manifest:
    """Raises FetchError, CheckpointError, OSError."""
    from services.weights.address import parse_address
    from services.weights.errors import BadSource

    try:
        where = parse_address(address)
    except BadSource as error:
        usage_error(str(error))
    from tempfile import TemporaryDirectory

    from services.process.telemetry import progress
    from services.weights.fetch import Options
    from services.weights.remote_manifest import manifest_of_source
    from services.weights.stores import open_source

    _configure_logging("manifest")
    source, options = open_source(where), Options(connections=connections)
    with TemporaryDirectory(prefix="caracal-manifest-") as scratch, progress("reading weights") as report:
        return manifest_of_source(source, Path(scratch), options, report, blocks=blocks)


def prune(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The model that is served.")],
    keep: Annotated[int, typer.Option(min=1, help="Models that stay in any case, this one and those served last.")] = 2,
) -> None:
    """Remove models beside DIR that nobody reads any more. For a pod on Kubernetes, in a claim that pods share.

    What a pod of the namespace names stays, and so does what `caracal fetch` has not made.
    """
    from services.weights.errors import FetchError
    from services.weights.pods import Pods, PodsUnavailable
    from services.weights.prune import prune as run

    _configure_logging("prune")
    try:
        removed = run(folder, keep, Pods.in_cluster().specs)
    except (FetchError, PodsUnavailable) as error:
        fail(str(error))
    print(f"removed: {', '.join(removed) or 'nothing'}")
