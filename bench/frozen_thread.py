"""Stops one thread of a process and no other: its sockets live on, and nothing says that it stands still.

A signal would stop the whole process. ptrace stops a thread; whoever has stopped it must be the thread that lets it go,
so a child of its own holds it. Needs the right to trace the process, as root has it.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import ClassVar, TypeVar

SEIZE, INTERRUPT, DETACH = 0x4206, 0x4207, 17
WALL = 0x40000000
STOPPED = "t"
REPO = Path(__file__).resolve().parents[1]
HeldT = TypeVar("HeldT", bound="HeldThread")


def threads(pid: int, name: str) -> list[int]:
    """The ids of the process's threads whose name begins so: an attention worker's engine, "engine"."""
    tasks = Path(f"/proc/{pid}/task")
    return sorted(int(task.name) for task in tasks.iterdir() if (task / "comm").read_text().startswith(name))


def state(thread: int) -> str:
    return Path(f"/proc/{thread}/stat").read_text().rpartition(")")[2].split()[0]


class HeldThread:
    """A thread to which a child process, the program `program`, does something: it says `says` then, and ends it when
    its stdin ends. `inject` begins, `verify` asks whether the kernel shows the thread in state `shows`, `heal` ends.
    """

    program: ClassVar[str]
    says: ClassVar[str]
    shows: ClassVar[str]

    def __init__(self, thread: int) -> None:
        self.thread = thread
        self._holder: subprocess.Popen[str] | None = None

    def inject(self) -> None:
        """Returns when it is so. Raises RuntimeError."""
        self._holder = subprocess.Popen(
            [sys.executable, self.program, str(self.thread)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": str(REPO)},
            text=True,
        )
        assert self._holder.stdout is not None
        if (said := self._holder.stdout.readline().strip()) != self.says:
            raise RuntimeError(f"thread {self.thread} is not {self.says}: {said or 'see stderr'}")

    def verify(self) -> bool:
        return state(self.thread) == self.shows

    def heal(self) -> None:
        """Lets the thread go on; nothing when it does, or is gone."""
        holder, self._holder = self._holder, None
        if holder is not None:
            holder.communicate("", timeout=20)


class FrozenThread(HeldThread):
    """It stands still."""

    program, says, shows = __file__, "stopped", STOPPED


@contextmanager
def held(fault: HeldT) -> Iterator[HeldT]:
    fault.inject()
    try:
        assert fault.verify()
        yield fault
    finally:
        fault.heal()


def frozen(thread: int) -> AbstractContextManager[FrozenThread]:
    return held(FrozenThread(thread))


def hold(thread: int) -> None:
    """Stops the thread, says so, and lets it go when stdin ends."""
    ptrace = ctypes.CDLL(None, use_errno=True).ptrace
    ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)
    for asked in (SEIZE, INTERRUPT):
        if ptrace(asked, thread, None, None) != 0:
            print(os.strerror(ctypes.get_errno()), flush=True)
            return
    os.waitpid(thread, WALL)
    print("stopped", flush=True)
    sys.stdin.read()
    ptrace(DETACH, thread, None, None)


if __name__ == "__main__":
    hold(int(sys.argv[1]))
