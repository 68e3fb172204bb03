"""Rank 0's side of the other ranks, the followers: starts their processes, sends them steps, watches and ends them."""

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
from services.attention_worker.tensor_parallel.ready_frame import Read, unpack_ready
from services.process.children import LAUNCHER, import_path

MODULE = "services.attention_worker.tensor_parallel.rank_process"
EXIT_GRACE_S = 2.0
EXIT_CODE_S = 0.2  # how long to wait for the exit code of a rank whose channel has closed


class RankLost(Exception):
    """A rank has ended, or is of another numerics class: the worker cannot go on."""


@dataclass(frozen=True, slots=True)
class Follower:
    """One rank's process and the channel to it."""

    rank: int
    process: subprocess.Popen[bytes]
    channel: Channel


class Followers:
    """Ranks 1 to size - 1, processes on this machine with this one's environment; as a context manager it ends them."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.folder = Path(tempfile.mkdtemp(prefix="caracal-ranks-")) if size > 1 else Path()
        self._all = [_start(rank, self.folder) for rank in range(1, size)]
        self._lost: RankLost | None = None
        self._abort: Callable[[], None] = _nothing

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    @property
    def processes(self) -> list[int]:
        """The ids of the ranks' processes."""
        return [one.process.pid for one in self._all]

    def await_ready(self, numerics_class: str) -> list[Read]:
        """Waits until every rank has loaded its part; returns the checksums of what each has read.

        Raises RankLost for one that ended or has another class.
        """
        read = []
        for one in self._all:
            try:
                found, its = unpack_ready(one.channel.receive())
            except ChannelClosed:
                raise self._ended(EXIT_CODE_S) or RankLost(f"rank {one.rank} has closed its channel") from None
            if found != numerics_class:
                raise RankLost(f"rank {one.rank} is of numerics class {found}, rank 0 of {numerics_class}")
            read.append(its)
        return read

    def on_lost(self, abort: Callable[[], None]) -> None:
        """Sets the function that aborts the ranks' collectives once a rank is gone."""
        self._abort = abort

    def check(self) -> None:
        """Raises RankLost when a rank is known to be gone: then the step's result must not be used."""
        if self._lost:
            raise self._lost

    def send(self, frame: bytes) -> None:
        """Sends a frame to every rank. Raises ChannelClosed when one is gone."""
        for one in self._all:
            one.channel.send(frame)

    async def watch(self) -> None:
        """Waits until cancelled. Raises RankLost as soon as a rank is gone or `kill` was called."""
        loop, gone = asyncio.get_running_loop(), asyncio.Event()
        for one in self._all:
            loop.add_reader(one.channel, gone.set)  # followers send nothing more, so only the end can be read
        try:
            await gone.wait()
        finally:
            for one in self._all:
                loop.remove_reader(one.channel)
        self._lost = self._lost or self._ended(EXIT_CODE_S) or RankLost("a rank has closed its channel")
        self._abort()
        raise self._lost

    def kill(self, error: Exception) -> RankLost:
        """Kills every rank, from any thread, after a step that not all of them completed.

        Returns the reason, which `watch` then raises.
        """
        self._lost = self._lost or self._ended(EXIT_CODE_S) or RankLost(f"the ranks are out of step: {error}")
        for one in self._all:
            one.channel.close_down()
            one.process.kill()
        return self._lost

    def end(self) -> None:
        """Lets every rank exit and kills those that do not within EXIT_GRACE_S; may be called twice."""
        for one in self._all:
            one.channel.close_down()
        deadline = time.monotonic() + EXIT_GRACE_S
        for one in self._all:
            try:
                one.process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                one.process.kill()
                one.process.wait()
        self.remove_folder()

    def remove_folder(self) -> None:
        """Removes the folder of the ranks' rendezvous; they must be connected, or gone."""
        if self.size > 1:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _ended(self, seconds: float) -> RankLost | None:
        """The first rank that has exited; waits for it, since its channel closes before its exit code is known."""
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
    """Starts a rank that ends with this process, in its own session so that a Ctrl-C reaches only rank 0."""
    ours, theirs = socket.socketpair()
    with theirs:
        arguments = [str(number) for number in (rank, theirs.fileno(), folder)]
        launch = [sys.executable, "-I", "-S", str(LAUNCHER), str(os.getpid())]
        process = subprocess.Popen(
            [*launch, sys.executable, "-P", "-m", MODULE, *arguments],
            stdin=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": import_path()},
            pass_fds=[theirs.fileno()],
            start_new_session=True,
        )
    return Follower(rank, process, Channel(ours))
