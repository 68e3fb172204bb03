"""Nodes whose every connection leads through the hub: each is known by an address of the hub's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from typing import Any

from bench.nodes import NETWORK, PATHS, REPO, Nodes, run_ip

PORTS = {"router": (8000, 8001, 8003), "attention": (8001, 8003), "expert": (8001, 8002, 8003)}
REDIS, REDIS_PORT = "redis", 6379


WELL: dict[str, Any] = {"delay_s": 0.0, "rate": 0.0, "hold_there": False, "hold_back": False, "flips": 0}


def role_of(name: str) -> str:
    """The role of a node, or Redis."""
    return name.rpartition("-")[0] or name


class FaultyNetwork(Nodes):
    """A node for each process, named ROLE-NUMBER, and the hub, by which Redis at `here` is reached, too."""

    def door(self, name: str) -> str:
        """The address by which all others reach a node, or Redis."""
        return f"{NETWORK}.{100 + (*self.names, REDIS).index(name)}"

    def fault(self, caller: str, called: str, **values: Any) -> dict[str, int]:
        """Makes a link faulty, or well again; returns what it has counted so far."""
        return self._ask({"from": caller, "to": called, "set": values})

    def reset(self, caller: str, called: str) -> dict[str, int]:
        return self._ask({"from": caller, "to": called, "reset": True})

    def heal(self) -> None:
        """Makes all links well, and plugs all nodes in."""
        for called in (*self.names, REDIS):
            for caller in ("here", *self.names):
                self.fault(caller, called, **WELL)
        for name in self.names:
            self.plug(name)

    def callers(self, called: str) -> list[str]:
        """The nodes that connect to one, or to Redis."""
        roles = {"expert": ("attention", "router"), "attention": ("router", "attention"), "router": ("here", "router")}
        kinds = roles.get(role_of(called), ("router", "attention", "expert"))
        return [name for name in ("here", *self.names) if role_of(name) in kinds]

    def _make(self) -> None:
        super()._make()
        doors: list[tuple[str, int, str, str]] = [(self.door(REDIS), REDIS_PORT, REDIS, self.here)]
        for name in self.names:
            for port in PORTS[role_of(name)]:
                doors.append((self.door(name), port, name, self.address(name)))
        for address in {door[0] for door in doors}:
            run_ip("addr", "add", f"{address}/24", "dev", self.own)
        config = {"nodes": {self.address(name): name for name in self.names}, "doors": doors}
        self._lock = threading.Lock()
        self._hub = subprocess.Popen(
            [sys.executable, "-m", "faults.hub", json.dumps(config)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=REPO,
            env=os.environ | {"PYTHONPATH": os.pathsep.join((PATHS, str(REPO / "tests")))},
        )
        self._exit.callback(self._hub.communicate)
        assert self._hub.stdout is not None
        assert self._hub.stdout.readline() == "ready\n"

    def _ask(self, command: dict[str, Any]) -> dict[str, int]:
        assert self._hub.stdin is not None
        assert self._hub.stdout is not None
        with self._lock:
            self._hub.stdin.write(json.dumps(command) + "\n")
            self._hub.stdin.flush()
            counts: dict[str, int] = json.loads(self._hub.stdout.readline())
        return counts
