"""Rank 0's hold on the other ranks: started, told each step, watched, ended for certain."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from services.attention_worker.tensor_parallel.channel import Channel, ChannelClosed
from services.process.children import LAUNCHER

MODULE = "services.attention_worker.tensor_parallel.follower"
LEAVE_S = 2.0
NOTICE_S = 0.2


class RankLost(Exception):
    """A rank has ended, or does not belong to the others: the worker cannot go on."""


@dataclass(frozen=True, slots=True)
class Follower:
    """One rank's process and the way to it."""

    rank: int
    process: subprocess.Popen[bytes]
    channel: Channel


class Followers:
    """Ranks 1 to size - 1, on this machine, with this process's environment. A context manager: at its end they end."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.folder = Path(tempfile.mkdtemp(prefix="caracal-ranks-")) if size > 1 else Path()
        self._all = [_start(rank, self.folder) for rank in range(1, size)]
        self._why: RankLost | None = None
        self._abort: Callable[[], None] = _nothing

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def await_ready(self, numerics_class: str) -> None:
        """Until every rank has loaded its part. Raises RankLost for one that ended or computes other bits."""
        for one in self._all:
            try:
                found = one.channel.receive().decode()
            except ChannelClosed:
                raise self._ended(NOTICE_S) or RankLost(f"rank {one.rank} has closed its channel") from None
            if found != numerics_class:
                raise RankLost(f"rank {one.rank} is of numerics class {found}, rank 0 of {numerics_class}")

    def joined(self, abort: Callable[[], None]) -> None:
        """The ranks have a group; `abort` ends its collectives once a rank is gone."""
        self._abort = abort

    def check(self) -> None:
        """Raises RankLost when a rank was seen to be gone: what was computed with it is worth nothing."""
        if self._why:
            raise self._why

    def send(self, frame: bytes) -> None:
        """Raises ChannelClosed when a rank is gone."""
        for one in self._all:
            one.channel.send(frame)

    async def watch(self) -> None:
        """Waits for ever. Raises RankLost as soon as a rank is gone or `part` was called."""
        loop, gone = asyncio.get_running_loop(), asyncio.Event()
        for one in self._all:
            loop.add_reader(one.channel, gone.set)  # they say nothing more: what can be read is the end
        try:
            await gone.wait()
        finally:
            for one in self._all:
                loop.remove_reader(one.channel)
        self._why = self._why or self._ended(NOTICE_S) or RankLost("a rank has closed its channel")
        self._abort()
        raise self._why

    def part(self, error: Exception) -> RankLost:
        """Ends every rank, from any thread, after a step that not all took to its end. Returns why; so does `watch`."""
        self._why = self._why or self._ended(NOTICE_S) or RankLost(f"the ranks are out of step: {error}")
        for one in self._all:
            one.channel.close_down()
            one.process.kill()
        return self._why

    def end(self) -> None:
        """Lets every rank leave, kills what stays; may be called twice."""
        for one in self._all:
            one.channel.close_down()
        deadline = time.monotonic() + LEAVE_S
        for one in self._all:
            try:
                one.process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                one.process.kill()
                one.process.wait()
        self.clear()

    def clear(self) -> None:
        """Removes the folder in which the ranks meet; they must have met, or be gone."""
        if self.size > 1:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _ended(self, seconds: float) -> RankLost | None:
        """A rank that has ended by itself; its connections close before its exit code can be had."""
        deadline = time.monotonic() + seconds
        while True:
            for one in self._all:
                if (code := one.process.poll()) is not None:
                    return RankLost(f"rank {one.rank} has ended with code {code}")
            if time.monotonic() > deadline:
                return None
            time.sleep(0.01)


def _nothing() -> None:
    pass


def _start(rank: int, folder: Path) -> Follower:
    """In a session of its own, so that a Ctrl-C reaches only rank 0, which drains; it dies with this process."""
    ours, theirs = socket.socketpair()
    with theirs:
        arguments = [str(number) for number in (rank, theirs.fileno(), folder)]
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(LAUNCHER), str(os.getpid()), sys.executable, "-m", MODULE, *arguments],
            stdin=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
            start_new_session=True,
        )
    return Follower(rank, process, Channel(ours))
