"""What a local cluster is made of; a bad setting is refused by name."""

from __future__ import annotations

import json
import os
import socket
import sys
from dataclasses import dataclass, field
from pathlib import Path

MAX_WORKERS = 64
DEFAULT_MODEL = Path(__file__).resolve().parents[2] / "models" / "caracal-tiny"
SCALED = ("attention", "expert")


PAGES = 512


class InvalidSetting(ValueError):
    """A cluster that cannot be started; one line."""


@dataclass(frozen=True, kw_only=True)
class LocalSettings:
    """Counts are those at the start; `caracal scale` changes them later."""

    model: Path
    host: str = "127.0.0.1"
    port: int = 8000
    attention: int = 1
    expert: int = 1
    routers: int = 1
    dtype: str = ""
    device: str = "cpu"  # of all workers
    tp: int = 1  # ranks of an attention worker
    kv_pages: int = 0  # 0 = PAGES
    link: str = "grpc"
    dispatch_dtype: str = ""
    environment: dict[str, str] = field(default_factory=dict)  # for every child

    def check(self) -> None:
        """Raises InvalidSetting."""
        if not self.model.is_dir():
            raise InvalidSetting(f"--model: {self.model} is not a directory")
        _check_config(self.model / "config.json")
        for name in (*SCALED, "routers"):
            check_count(name, getattr(self, name))
        if self.dtype not in ("", "bfloat16", "float32"):
            raise InvalidSetting(f"--dtype: {self.dtype!r} is neither bfloat16 nor float32")
        if not 1 <= self.tp <= MAX_WORKERS:
            raise InvalidSetting(f"--tp: {self.tp} is not between 1 and {MAX_WORKERS}")
        if self.kv_pages < 0:
            raise InvalidSetting(f"--kv-pages: {self.kv_pages} is negative")
        if self.link not in ("grpc", "nccl"):
            raise InvalidSetting(f"--link: {self.link!r} is neither grpc nor nccl")
        if self.dispatch_dtype not in ("", "fp8"):
            raise InvalidSetting(f"--dispatch-dtype: {self.dispatch_dtype!r} is not fp8")
        if not 0 <= self.port < 65536:
            raise InvalidSetting(f"--port: {self.port} is no port number")
        if self.port:
            _check_port(self.host, self.port)

    @property
    def attention_ranks(self) -> int:
        """Processes that compute attention."""
        return self.attention * self.tp

    def worker_environment(self) -> dict[str, str]:
        """Of every child. Threads are shared out, and wait asleep: two pools that spin on one core stop each other."""
        threads = str(max(1, (os.cpu_count() or 1) // (self.attention_ranks + self.expert)))
        return {
            "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if os.path.isdir(entry)),
            "CARACAL_MODEL": str(self.model),
            "CARACAL_DTYPE": self.dtype,
            "CARACAL_DEVICE": self.device,
            # A number also on a GPU: workers share it, and the first one must not take what is free for its pages.
            "CARACAL_KV_PAGES": str(self.kv_pages or PAGES),
            "CARACAL_TP": str(self.tp),
            "CARACAL_LINK": self.link,
            "NCCL_MULTI_RANK_GPU_ENABLE": "1",  # workers of one machine share its GPU; NCCL >= 2.30 obeys
            "CARACAL_DISPATCH_DTYPE": self.dispatch_dtype,
            "CARACAL_HOST": self.host,
            "CARACAL_ADVERTISE_HOST": self.host,
            "CARACAL_THREADS": threads,
            "OMP_NUM_THREADS": threads,
            "OMP_WAIT_POLICY": "passive",
            "TOKENIZERS_PARALLELISM": "false",
            **self.environment,
        }


def check_count(role: str, count: int) -> None:
    """Raises InvalidSetting."""
    if count < 1:
        raise InvalidSetting(
            f"{role}={count}: a cluster needs at least one {role} worker to answer; `Ctrl-C` stops it whole"
        )
    if count > MAX_WORKERS:
        raise InvalidSetting(f"{role}={count}: more than {MAX_WORKERS} processes on one machine are refused")


def _check_config(path: Path) -> None:
    try:
        json.loads(path.read_text())
    except FileNotFoundError:
        raise InvalidSetting(f"--model: {path.parent} has no config.json") from None
    except (OSError, ValueError) as error:
        raise InvalidSetting(f"--model: {path}: {error}") from None


def _check_port(host: str, port: int) -> None:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise InvalidSetting(f"--port: cannot listen on {host}:{port}: {error.strerror}; try another") from None
