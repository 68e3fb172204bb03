"""Runs a command that dies with its parent: `python -I -S dies_with_parent.py PARENT_PID COMMAND...`.

Standard library only: it runs without site-packages.

Linux kills a process at the death of its parent if it asked for that with prctl; the setting survives exec. On other
systems the command just runs.
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
        if os.getppid() != parent:  # it died before prctl took effect
            sys.exit(1)
    os.execv(command[0], command)


if __name__ == "__main__":
    main()
