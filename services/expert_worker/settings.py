"""Settings of the expert worker: read once from the environment, refused by name."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

PREFIX = "CARACAL_"


class InvalidSetting(ValueError):
    """A setting that cannot be used; the message begins with the variable's name."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Field `name` is read from CARACAL_NAME. Defaults exist here and nowhere else."""

    model: Path
    dtype: str = ""  # bfloat16 | float32; empty = the checkpoint's own
    device: str = "cpu"  # cpu | cuda | cuda:N
    redis_url: str = "redis://127.0.0.1:6379/0"
    cluster: str = "caracal"  # prefix of every Redis key
    host: str = "127.0.0.1"
    port: int = 0  # 0 = any free one
    advertise_host: str = ""  # empty = host
    worker_id: str = ""  # empty = the machine's name
    metrics_port: int = 0  # 0 = any free one
    threads: int = 0  # of the kernels; 0 = torch's choice
    capacity: int = 0  # experts this worker may hold; 0 = all of the model's
    dispatch_dtype: str = ""  # of rows that attention workers send: fp8; empty = the model's
    max_sessions: int = 128  # attention workers that may be connected at once
    drain_timeout_s: float = 30.0  # how long after SIGTERM it waits for its experts to be placed elsewhere

    def __post_init__(self) -> None:
        for name in ("port", "metrics_port"):
            _require(0 <= getattr(self, name) < 65536, name, "is no port number")
        for name in ("threads", "capacity", "drain_timeout_s"):
            _require(getattr(self, name) >= 0, name, "must not be negative")
        _require(self.max_sessions > 0, "max_sessions", "must be positive")
        _require(self.dtype in ("", "bfloat16", "float32"), "dtype", "must be bfloat16 or float32")
        _require(self.dispatch_dtype in ("", "fp8"), "dispatch_dtype", "must be fp8 or empty")

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> Settings:
        """Raises InvalidSetting. An empty variable counts as not set."""
        environ = os.environ if environ is None else environ
        given = {field.name: environ.get(PREFIX + field.name.upper(), "") for field in fields(cls)}
        _require(bool(given["model"]), "model", "is not set: it names the checkpoint's directory")
        kinds = {field.name: str(field.type) for field in fields(cls)}
        return cls(**{name: _cast(name, text, kinds[name]) for name, text in given.items() if text})  # type: ignore[arg-type]

    @property
    def identity(self) -> str:
        return self.worker_id or socket.gethostname()

    @property
    def reachable_host(self) -> str:
        return self.advertise_host or self.host


def _cast(name: str, text: str, kind: str) -> object:
    try:
        return {"int": int, "float": float, "str": str, "Path": Path}[kind](text)
    except ValueError:
        raise InvalidSetting(f"{PREFIX}{name.upper()} is {text!r}: not a number") from None


def _require(holds: bool, name: str, message: str) -> None:
    if not holds:
        raise InvalidSetting(f"{PREFIX}{name.upper()} {message}")
