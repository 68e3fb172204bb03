"""Machines of a test or a benchmark: network namespaces on one switch, from which one can be unplugged without any end
noticing.

Needs the rights to make namespaces, as root has them.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]
# Of this process: others may have nodes at the same time, and killed ones have left theirs.
NETWORK = f"10.{150 + os.getpid() // 250 % 50}.{os.getpid() % 250}"
_NUMBERS = itertools.count()  # a process may have several
PATHS = os.pathsep.join(str(REPO / part) for part in (".", "kernels", "proto"))


class Nodes:
    """A context manager. The switch is a namespace of its own; so is each of `names`; this process is at `here`."""

    def __init__(self, *names: str) -> None:
        self._prefix = f"cc{os.getpid() % 100000}{next(_NUMBERS)}"
        self.names = names
        self.here = f"{NETWORK}.1"
        self._exit = ExitStack()

    def __enter__(self) -> Nodes:
        try:
            self._make()
        except BaseException:
            self._exit.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._exit.close()

    def address(self, name: str) -> str:
        return f"{NETWORK}.{10 + self.names.index(name)}"

    def start(self, name: str, module: str, log: Path, **environment: str) -> subprocess.Popen[bytes]:
        """Runs `python -m MODULE` on a node; it is killed when the block ends."""
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("CARACAL_")}
        with log.open("ab") as sink:
            child = subprocess.Popen(
                ["ip", "netns", "exec", self._namespace(name), sys.executable, "-m", module],
                env=inherited | {"PYTHONPATH": PATHS} | environment,
                cwd=REPO,
                stdout=sink,
                stderr=sink,
            )
        self._exit.callback(child.wait)
        self._exit.callback(child.kill)
        return child

    def unplug(self, name: str) -> None:
        """What is sent to the node or by it is lost from now on; no connection hears of it."""
        run_ip("-n", self._switch, "link", "set", self._port(name), "nomaster")

    def plug(self, name: str) -> None:
        run_ip("-n", self._switch, "link", "set", self._port(name), "master", "switch")

    @property
    def own(self) -> str:
        """This process's end of its cable."""
        return f"{self._prefix}-own"

    @property
    def _switch(self) -> str:
        return f"{self._prefix}-switch"

    def _namespace(self, name: str) -> str:
        return f"{self._prefix}-{name}"

    def _port(self, name: str) -> str:
        return f"p-{name}"

    def _make(self) -> None:
        self._add_namespace(self._switch)
        run_ip("-n", self._switch, "link", "add", "switch", "type", "bridge")
        run_ip("-n", self._switch, "link", "set", "switch", "up")
        run_ip("link", "add", self.own, "type", "veth", "peer", "name", "p-own", "netns", self._switch)
        self._exit.callback(run_ip, "link", "del", self.own)
        run_ip("addr", "add", f"{self.here}/24", "dev", self.own)
        run_ip("link", "set", self.own, "up")
        self._plug_in("p-own")
        for name in self.names:
            namespace = self._namespace(name)
            self._add_namespace(namespace)
            run_ip(
                "-n",
                namespace,
                "link",
                "add",
                "eth0",
                "type",
                "veth",
                "peer",
                "name",
                self._port(name),
                "netns",
                self._switch,
            )
            run_ip("-n", namespace, "addr", "add", f"{self.address(name)}/24", "dev", "eth0")
            run_ip("-n", namespace, "link", "set", "eth0", "up")
            run_ip("-n", namespace, "link", "set", "lo", "up")
            self._plug_in(self._port(name))

    def _plug_in(self, port: str) -> None:
        run_ip("-n", self._switch, "link", "set", port, "up")
        run_ip("-n", self._switch, "link", "set", port, "master", "switch")

    def _add_namespace(self, namespace: str) -> None:
        run_ip("netns", "add", namespace)
        self._exit.callback(run_ip, "netns", "del", namespace)


def run_ip(*words: str) -> None:
    """Raises CalledProcessError."""
    subprocess.run(["ip", *words], check=True, capture_output=True)
