"""The cluster key: a secret of all processes of one cluster, from a setting or a file. It is shown nowhere."""

from __future__ import annotations

import hmac
import os
import threading
import time
from pathlib import Path

import structlog

from services.security.files import Unreadable, contents, state_of

log = structlog.get_logger(__name__)

MIN_KEY_BYTES = 16
MAX_FILE_BYTES = 16 << 10
LOOK_S = 1.0  # between two looks at the file


class BadKey(ValueError):
    """A key that cannot be used, in words that do not show it."""


class ClusterKey:
    """The keys of one process: the first signs, each of them verifies. Without any, nothing is signed or verified.

    A file has one key a line and is read again when it changes; one that became unusable changes nothing. Any thread
    may use it.
    """

    def __init__(self, text: str = "", file: Path | None = None) -> None:
        """Raises BadKey."""
        if text and file is not None:
            raise BadKey("a key and a file with keys are both given: give one of them")
        self._file = file
        self._lock = threading.Lock()
        self._seen: object = None
        self._look_at, self._fault = 0.0, ""
        self._keys: tuple[bytes, ...] = _parsed(text) if text else ()
        self._derived: dict[str, tuple[bytes, ...]] = {}
        if file is not None:
            self._seen, self._keys = _state_of(file), _read(file)
            self._look_at = time.monotonic() + LOOK_S

    @property
    def given(self) -> bool:
        """Whether there is a key at all. It does not change while the process runs."""
        return bool(self._keys)

    def signs(self, label: str) -> bytes:
        """The secret that signs what `label` names."""
        return self.verifies(label)[0]

    def verifies(self, label: str) -> tuple[bytes, ...]:
        """The secrets with which something that `label` names may be signed; none without a key."""
        if self._file is not None and time.monotonic() >= self._look_at:
            self._look_again()
        with self._lock:
            derived = self._derived.get(label)
            if derived is None:
                message = b"caracal 1 " + label.encode()
                derived = tuple(hmac.digest(key, message, "sha256") for key in self._keys)
                self._derived[label] = derived
            return derived

    def _look_again(self) -> None:
        assert self._file is not None
        with self._lock:
            self._look_at = time.monotonic() + LOOK_S
            try:
                state, keys = _state_of(self._file), self._keys
                if state != self._seen:
                    keys = _read(self._file)
                    self._seen = state  # not before: a file that cannot be read now is tried again
            except BadKey as error:
                if str(error) != self._fault:
                    self._fault = str(error)
                    log.warning("the file of the cluster key cannot be used; the keys before stay", reason=self._fault)
                return
            self._fault = ""
            if keys != self._keys:
                self._keys, self._derived = keys, {}
                log.info("the cluster key has changed", keys=len(keys))


NO_KEY = ClusterKey()


def warn_without(key: ClusterKey) -> None:
    """Logs, on Kubernetes, that there is no key."""
    if not key.given and os.environ.get("KUBERNETES_SERVICE_HOST"):
        log.warning("there is no CARACAL_CLUSTER_KEY: whoever reaches this port, or Redis, may decide what is answered")


def key_violation(text: str, file: Path | None) -> str:
    """What is wrong with a key or its file, in words that do not show it; empty when nothing is."""
    try:
        ClusterKey(text, file)
    except BadKey as error:
        return str(error)
    return ""


def _parsed(text: str) -> tuple[bytes, ...]:
    keys = tuple(line.strip().encode() for line in text.splitlines() if line.strip())
    if not keys:
        raise BadKey("there is no key in it")
    if any(len(key) < MIN_KEY_BYTES for key in keys):
        raise BadKey(f"a key needs at least {MIN_KEY_BYTES} bytes")
    return keys


def _state_of(file: Path) -> object:
    """What differs once the file has been written or replaced. Raises BadKey."""
    try:
        return state_of(file)
    except Unreadable as error:
        raise BadKey(f"{file}: {error}") from None


def _read(file: Path) -> tuple[bytes, ...]:
    """Raises BadKey."""
    try:
        return _parsed(contents(file, MAX_FILE_BYTES).decode())
    except UnicodeDecodeError:
        raise BadKey(f"{file}: not UTF-8") from None
    except (BadKey, Unreadable) as error:
        raise BadKey(f"{file}: {error}") from None
