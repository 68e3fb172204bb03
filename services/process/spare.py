"""`python -m services.process.spare MODULE...`: imports the modules, then waits to run one of them in place of another
process.

A line of JSON on standard input says which module, with which further variables, and into which log; it is run as
`python -m MODULE` would be. Without a line, when the input ends, so does this process: a spare outlives nobody.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path

from services.process.start_times import StartTimes, count_from_now


def order(module: str, environment: Mapping[str, str], log: Path) -> bytes:
    """The line that makes a spare run `module`."""
    return json.dumps({"module": module, "environment": dict(environment), "log": str(log)}).encode() + b"\n"


def main() -> None:
    for module in sys.argv[1:]:
        import_module(f"{module}.__main__")
    print(json.dumps({"event": "spare", **StartTimes().parts}), flush=True)
    line = sys.stdin.buffer.readline()
    if not line:
        return
    count_from_now()
    given = json.loads(line)
    os.environ.update(given["environment"])
    _reopen(Path(given["log"]))
    import_module(f"{given['module']}.__main__").main()


def _reopen(log: Path) -> None:
    """From now on standard output and error go to `log`, and standard input is empty."""
    for path, flags, descriptors in (
        (log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, (1, 2)),
        (Path(os.devnull), os.O_RDONLY, (0,)),
    ):
        opened = os.open(path, flags, 0o666)
        for descriptor in descriptors:
            os.dup2(opened, descriptor)
        os.close(opened)


if __name__ == "__main__":
    main()
