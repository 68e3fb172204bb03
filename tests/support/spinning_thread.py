"""Has one thread of a process compute for ever and get nowhere, as in a loop that does not end: the others go on.

By ptrace: the thread goes on at an instruction that jumps to itself, of which libraries have some by chance. Only while
it sleeps in the kernel, where it holds no lock that Python's other threads need. Linux on x86-64, with the right to
trace the process, as root has it.
"""

from __future__ import annotations

import ctypes
import os
import platform
import sys
import time
from contextlib import AbstractContextManager
from pathlib import Path

from bench.frozen_thread import DETACH, INTERRUPT, SEIZE, WALL, HeldThread, held, state

GETREGS, SETREGS, CONTINUE = 12, 13, 7
REGISTERS, ORIG_RAX, RIP = 27, 15, 16  # of struct user_regs_struct
JUMP_TO_ITSELF = b"\xeb\xfe"
SLEEPS, RUNS = "S", "R"
AVAILABLE = sys.platform == "linux" and platform.machine() == "x86_64"
LONGEST_S = 20.0


class SpinningThread(HeldThread):
    """It computes, and gets nowhere."""

    program, says, shows = __file__, "spinning", RUNS


def spinning(thread: int) -> AbstractContextManager[SpinningThread]:
    return held(SpinningThread(thread))


class Tracer:
    """Stops one thread and changes its registers; whoever has stopped it must be the thread that lets it go."""

    def __init__(self, thread: int) -> None:
        self._ptrace = ctypes.CDLL(None, use_errno=True).ptrace
        self._ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)
        self._thread = thread
        self.ask(SEIZE)

    def ask(self, request: int, data: object = None) -> None:
        """Raises OSError."""
        if self._ptrace(request, self._thread, None, data) != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))

    def stop(self) -> ctypes.Array[ctypes.c_ulong]:
        """Stops the thread; returns its registers."""
        self.ask(INTERRUPT)
        os.waitpid(self._thread, WALL)
        registers = (ctypes.c_ulong * REGISTERS)()
        self.ask(GETREGS, ctypes.addressof(registers))
        return registers

    def go_on(self, registers: ctypes.Array[ctypes.c_ulong], request: int) -> None:
        self.ask(SETREGS, ctypes.addressof(registers))
        self.ask(request)


def jump_to_itself(thread: int) -> int:
    """The address of such an instruction in the thread's process. Raises LookupError."""
    maps = Path(f"/proc/{thread}/maps").read_text().splitlines()
    with open(f"/proc/{thread}/mem", "rb", buffering=0) as memory:
        for line in maps:
            span, rights, *_, path = line.split()
            if rights != "r-xp" or not path.startswith("/"):
                continue
            begin, end = (int(each, 16) for each in span.split("-"))
            memory.seek(begin)
            if (at := memory.read(end - begin).find(JUMP_TO_ITSELF)) >= 0:
                return begin + at
    raise LookupError("no library has an instruction that jumps to itself")


def hold(thread: int) -> None:
    """Lets the thread spin, says so, and lets it go on when stdin ends."""
    address, tracer, until = jump_to_itself(thread), Tracer(thread), time.monotonic() + LONGEST_S
    while True:
        asleep = state(thread) == SLEEPS
        kept = tracer.stop()
        in_the_kernel = ctypes.c_long(kept[ORIG_RAX]).value >= 0
        if asleep and in_the_kernel:
            break
        tracer.go_on(kept, CONTINUE)
        if time.monotonic() > until:
            print("it never sleeps", flush=True)
            return
        time.sleep(0.001)
    changed = type(kept)(*kept)
    changed[RIP], changed[ORIG_RAX] = address, ctypes.c_ulong(-1).value  # no system call is to be made again
    tracer.go_on(changed, CONTINUE)
    while state(thread) != RUNS:
        time.sleep(0.001)
    print("spinning", flush=True)
    sys.stdin.read()
    tracer.stop()
    tracer.go_on(kept, DETACH)


if __name__ == "__main__":
    hold(int(sys.argv[1]))
