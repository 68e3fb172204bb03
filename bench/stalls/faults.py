"""Faults that are injected into a cluster of a benchmark. Each proves that it took effect, and heals."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from bench.frozen_thread import FrozenThread, threads
from bench.nodes import Nodes

SEEN_S = 5.0  # until a fault has taken effect
COMPUTING = {"attention": "engine", "expert": "launches"}  # the thread that computes, by role


class NotInjected(RuntimeError):
    """A fault did not happen, so nothing was measured."""


class Fault(Protocol):
    """All three are called by threads other than the event loop's. They raise NotInjected."""

    def inject(self) -> None:
        """Returns once it has taken effect."""

    def check(self) -> None:
        """Is called while it lasts, at the end."""

    def heal(self) -> None: ...


class Signalled:
    """Processes get a signal: SIGKILL or SIGSTOP."""

    def __init__(self, number: signal.Signals, pids: Sequence[int]) -> None:
        self._number, self._pids = number, pids
        self._states = ("Z", "") if number is signal.SIGKILL else ("T",)

    def inject(self) -> None:
        for pid in self._pids:
            os.kill(pid, self._number)
        end = time.monotonic() + SEEN_S
        while any(state_of(pid) not in self._states for pid in self._pids):
            if time.monotonic() > end:
                raise NotInjected(f"{self._number.name}: {[state_of(pid) for pid in self._pids]} are the states")
            time.sleep(0.001)

    def check(self) -> None:
        if any(state_of(pid) not in self._states for pid in self._pids):
            raise NotInjected(f"{self._number.name}: a process goes on")

    def heal(self) -> None:
        if self._number is signal.SIGSTOP:
            for pid in self._pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)


class Frozen:
    """The thread of a worker that computes stands still; its sockets live on."""

    def __init__(self, pid: int, role: str) -> None:
        found = threads(pid, COMPUTING[role])
        if len(found) != 1:
            raise NotInjected(f"process {pid} has {len(found)} threads called {COMPUTING[role]}")
        self._thread = FrozenThread(found[0])

    def inject(self) -> None:
        try:
            self._thread.inject()
        except RuntimeError as error:
            raise NotInjected(str(error)) from None

    def check(self) -> None:
        if not self._thread.verify():
            raise NotInjected("the thread went on by itself")

    def heal(self) -> None:
        self._thread.heal()


class Proxy:
    """The process of `bench.fault_proxy` before a worker."""

    def __init__(self, child: subprocess.Popen[str]) -> None:
        self._child = child

    def say(self, line: str) -> str:
        """Changes the link, or asks for what was kept back; returns the answer."""
        assert self._child.stdin
        assert self._child.stdout
        self._child.stdin.write(line + "\n")
        self._child.stdin.flush()
        return self._child.stdout.readline().strip()


class BadLink:
    """The link to a worker fails in the way that a line to its proxy says."""

    def __init__(self, proxy: Proxy, line: str) -> None:
        self._proxy, self._line, self._held = proxy, line, 0

    def inject(self) -> None:
        self._held = int(self._proxy.say("held"))
        if self._proxy.say(self._line) != self._line.split()[0]:
            raise NotInjected(f"the proxy did not take {self._line!r}")

    def check(self) -> None:
        if int(self._proxy.say("held")) == self._held:
            raise NotInjected(f"{self._line}: nothing was on the link")

    def heal(self) -> None:
        self._proxy.say("pass")


class Unplugged:
    """A node's cable is out: what is sent to it or by it is lost, and no connection hears of it."""

    def __init__(self, nodes: Nodes, name: str, port: int) -> None:
        self._nodes, self._name, self._port = nodes, name, port

    def inject(self) -> None:
        self._nodes.unplug(self._name)
        self.check()

    def check(self) -> None:
        with contextlib.suppress(OSError), socket.create_connection((self._nodes.address(self._name), self._port), 0.3):
            raise NotInjected(f"node {self._name} can be reached")

    def heal(self) -> None:
        self._nodes.plug(self._name)


def state_of(pid: int) -> str:
    """The process's state, as proc(5) names it; empty when it is gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    return stat[stat.rindex(")") + 2]
