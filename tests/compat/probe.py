"""`python -m compat.probe MODULE SERVERS`, in a client's own virtual environment: exercises each feature of one client.

SERVERS is the JSON of `Servers`. A line of JSON a feature goes to stdout: its name, and why it fails or "".
"""

from __future__ import annotations

import importlib
import json
import sys
import traceback

from compat.features import FEATURES, Servers


def reason(error: Exception) -> str:
    """The first line of an error, with the place where an assertion without a text failed."""
    text = next(iter(str(error).strip().splitlines()), "")
    if isinstance(error, AssertionError) and not text:
        text = traceback.extract_tb(error.__traceback__)[-1].line or ""
    return f"{type(error).__name__}: {text}"[:200]


def main(module: str, servers: Servers) -> None:
    client = importlib.import_module(module)
    for feature in FEATURES:
        if exercise := getattr(client, feature, None):
            why = ""
            try:
                exercise(servers)
            except Exception as error:  # noqa: BLE001  # whatever a client raises is its outcome
                traceback.print_exc()
                why = reason(error)
            print(json.dumps([feature, why]), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], Servers(**json.loads(sys.argv[2])))
