"""Runs a command that dies with its parent: `python -I -S dies_with_parent.py PARENT_PID COMMAND...`.

Standard library only.

Linux ends a process whose parent is gone, if it asked for that; the wish survives exec. Elsewhere nothing is asked.
"""

import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    parent, command = int(sys.argv[1]), sys.argv[2:]
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # it went before the wish was known
            sys.exit(1)
    os.execv(command[0], command)


if __name__ == "__main__":
    main()
