"""Loads native extensions, or says why one cannot be used; the data plane's is here."""

from __future__ import annotations

import ctypes
import importlib
import importlib.metadata
import importlib.util
import sys
from functools import cache
from pathlib import Path
from types import ModuleType

from services.transport.native_build_id import build_id

NAME = "services.transport._native"
SOURCES = Path(__file__).parent / "native"
LIBCRYPTO = "libcrypto.so.3"  # as in native/libcrypto.h


class NativeUnavailable(RuntimeError):
    """A native extension was not compiled, or from other sources."""


def why_unavailable(name: str, what: str, *sources: Path) -> str:
    """Why the extension `name`, compiled from `sources`, cannot be used; empty when it can. `what` it is, in words."""
    if sys.platform != "linux":
        return f"{what} is not there: it is for Linux, this is {sys.platform}"
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        return f"{what} is not there: it was not compiled when Caracal was installed"
    try:
        torch_version = importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        return f"{what} is not there: torch is not installed"
    # A file from other sources may speak another version of the frames; for another torch it may crash the process.
    if build_id(torch_version, *sources).encode() not in Path(spec.origin).read_bytes():
        return f"{spec.origin} was compiled from other sources; install Caracal again"
    return ""


@cache
def unavailable(encrypted: bool = False) -> str:
    """Why the native data plane cannot be used, with sessions that are encrypted or not; empty when it can."""
    return why_unavailable(NAME, "the native data plane", SOURCES) or (unencrypted() if encrypted else "")


@cache
def unencrypted() -> str:
    """Why native sessions cannot be encrypted; empty when they can."""
    try:
        ctypes.CDLL(LIBCRYPTO)
    except OSError:
        return f"{LIBCRYPTO}, OpenSSL's library, is not there, and TLS is on"
    return ""


def native() -> ModuleType:
    """The extension. Raises NativeUnavailable."""
    if why := unavailable():
        raise NativeUnavailable(why)
    importlib.import_module("torch")  # whose libraries it needs
    return importlib.import_module(NAME)
