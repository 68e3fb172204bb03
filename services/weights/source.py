"""Where weights come from: a list of files, and ranges of their bytes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Protocol

from services.weights.digests import Digest
from services.weights.errors import BadSource

# Other frameworks' formats, and folders of them, that nothing here reads.
_UNREAD = (".bin", ".gguf", ".pt", ".pth", ".ckpt", ".msgpack", ".h5", ".onnx", ".tflite", ".ot")
_FOLDERS = ("additional_chat_templates",)
WEIGHTS = ".safetensors"


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file of a source. `version` changes with its content; `digest` is None where the source has none to compare."""

    name: str
    size: int
    version: str
    digest: Digest | None

    @property
    def has_weights(self) -> bool:
        return self.name.endswith(WEIGHTS)


class Source(Protocol):
    """One model at one revision; threads may share it."""

    @property
    def address(self) -> str: ...

    @property
    def pinned(self) -> str:
        """The address of exactly the files that were listed last."""
        ...

    def files(self) -> list[RemoteFile]:
        """All files, by name. Raises FetchError."""
        ...

    def read(self, file: RemoteFile, begin: int, end: int) -> Iterator[bytes]:
        """Yields the bytes [begin, end), in order, in pieces of any size. Raises FetchError at any of them."""
        ...


def is_read(name: str) -> bool:
    """Whether a checkpoint's readers may open a file of this name. Raises BadSource for one that leaves the folder."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not name.isprintable() or "\\" in name:
        raise BadSource(f"{name!r} is no name of a file in a folder")
    if any(part.startswith(".") for part in path.parts) or path.suffix in _UNREAD:
        return False
    return len(path.parts) == 1 or path.parts[0] in _FOLDERS
