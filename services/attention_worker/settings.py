"""Settings of the attention worker: read once from the environment, refused by name."""

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
    device: str = "cpu"  # cpu | cuda | cuda:N, of rank 0; further ranks take the next ones
    redis_url: str = "redis://127.0.0.1:6379/0"
    cluster: str = "caracal"  # prefix of every Redis key
    host: str = "127.0.0.1"
    port: int = 0  # 0 = any free one
    advertise_host: str = ""  # empty = host
    worker_id: str = ""  # empty = the machine's name
    metrics_port: int = 0  # 0 = any free one
    threads: int = 0  # of the kernels, in every rank; 0 = torch's choice
    tp: int = 1  # ranks, each a process with its part of every layer; must divide the attention heads
    kv_pages: int = 0  # of the latent cache; 0 = 512 on a CPU, on a GPU as many as its memory has room for
    page_size: int = 64  # tokens
    max_batch_tokens: int = 256  # per step
    max_running: int = 64  # sequences per step
    max_model_len: int = 0  # prompt and answer; 0 = what the model and the cache both allow
    expert_wait_s: float = 30.0  # how long a step waits for an expert that nobody holds
    drain_timeout_s: float = 20.0  # how long running sequences may finish after SIGTERM when nobody else can take them
    link: str = "grpc"  # to expert workers: grpc | nccl
    dispatch_dtype: str = ""  # of rows on their way to experts: fp8; empty = the model's. Expert workers need the same
    overlap: bool = True  # off only to measure what the shortcut hides

    def __post_init__(self) -> None:
        for name in ("page_size", "max_batch_tokens", "max_running", "tp"):
            _require(getattr(self, name) > 0, name, "must be positive")
        for name in ("port", "metrics_port"):
            _require(0 <= getattr(self, name) < 65536, name, "is no port number")
        for name in ("kv_pages", "threads", "max_model_len", "drain_timeout_s", "expert_wait_s"):
            _require(getattr(self, name) >= 0, name, "must not be negative")
        _require(self.page_size % 16 == 0, "page_size", "must be a multiple of 16")
        _require(self.max_running <= self.max_batch_tokens, "max_running", "must not exceed CARACAL_MAX_BATCH_TOKENS")
        _require(self.dtype in ("", "bfloat16", "float32"), "dtype", "must be bfloat16 or float32")
        _require(self.link in ("grpc", "nccl"), "link", "must be grpc or nccl")
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
    if kind == "bool":
        _require(text.lower() in ("0", "1", "true", "false"), name, f"is {text!r}, it must be 0 or 1")
        return text.lower() in ("1", "true")
    try:
        return {"int": int, "float": float, "str": str, "Path": Path}[kind](text)
    except ValueError:
        raise InvalidSetting(f"{PREFIX}{name.upper()} is {text!r}: not a number") from None


def _require(holds: bool, name: str, message: str) -> None:
    if not holds:
        raise InvalidSetting(f"{PREFIX}{name.upper()} {message}")
