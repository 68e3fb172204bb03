"""`caracal key`: makes an API key."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from services.cli.options import AsJson, fail, usage_error


def key(
    name: Annotated[str, typer.Argument(help="Who gets it, as logs and metrics name the key.")],
    file: Annotated[
        Path | None, typer.Option("--file", help="The file of CARACAL_API_KEYS_FILE, to which its section is added.")
    ] = None,
    requests_per_minute: Annotated[float, typer.Option(help="Requests a minute; 0 = any number.")] = 0.0,
    tokens_per_minute: Annotated[float, typer.Option(help="Tokens of prompts and answers a minute; 0 = any.")] = 0.0,
    concurrent: Annotated[int, typer.Option(help="Open requests at once; 0 = any number.")] = 0,
    weight: Annotated[float, typer.Option(help="Its share beside keys of weight 1, when requests wait.")] = 1.0,
    admin: Annotated[bool, typer.Option("--admin", help="It may read status and metrics, and scale.")] = False,
    as_json: AsJson = False,
) -> None:
    """Make an API key. The key is shown this once; the file has its hash alone."""
    from services.router.access.keys import KeysError, key_hash, new_key, section_of

    secret = new_key()
    given: dict[str, Any] = {
        "requests_per_minute": requests_per_minute,
        "tokens_per_minute": tokens_per_minute,
        "concurrent": concurrent,
        "weight": weight,
        "admin": admin,
    }
    try:
        section = section_of(name, key_hash(secret), given)
    except KeysError as error:
        usage_error(str(error))
    if file is not None:
        _add(file, name, section)
    if as_json:
        import json

        print(json.dumps({"name": name, "key": secret, "section": section}))
        return
    print(f"The key of {name}, shown this once: {secret}")
    print(f"{file} has its hash." if file else f"Add this to the file of CARACAL_API_KEYS_FILE:\n\n{section}", end="\n")


def _add(file: Path, name: str, section: str) -> None:
    """Appends a section to a file of keys, which is written whole and renamed: routers read it at any moment.

    It keeps its owner and its mode, by which routers may read it; where it is a link, what that names is changed.
    """
    from services.router.access.keys import ApiKeys, KeysError

    real = Path(os.path.realpath(file))
    partial = real.parent / f".{real.name}.{os.getpid()}"
    try:
        before, status = _contents(real)
        if before and name in ApiKeys.read(real).names:
            fail(f"{file}: {name} has a key already; take its section out first")
        descriptor = os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        try:
            with open(descriptor, "wb") as out:
                if status is not None:
                    os.fchown(descriptor, status.st_uid, status.st_gid)
                    os.fchmod(descriptor, status.st_mode & 0o777)
                out.write(before + (b"\n" if before else b"") + section.encode())
            ApiKeys.read(partial)
            partial.replace(real)
        finally:
            partial.unlink(missing_ok=True)
    except KeysError as error:
        fail(str(error).replace(str(partial), str(file)).replace(str(real), str(file)))
    except OSError as error:
        fail(f"{file}: {error.strerror or error}")


def _contents(file: Path) -> tuple[bytes, os.stat_result | None]:
    """What a file of keys holds, and its owner and mode; nothing where there is none. Raises OSError."""
    from services.checkpoint.regular_files import open_regular

    try:
        with open_regular(file) as opened:
            return opened.read(), os.fstat(opened.fileno())
    except FileNotFoundError:
        return b"", None
