"""Runs in a pod: a model hub with the image's model, slow, which prints each range of a file that was asked for.

URL: how others reach it. Beside it lies `support` with the modules of that name of the repository's tests.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

from support.weight_stores import Hub

MODEL = Path("/app/models/caracal-tiny")
PORT, PAUSE_S = 8080, 0.4


class PodHub(Hub):
    """At a fixed port of all addresses, instead of a free one of loopback."""

    def server_bind(self) -> None:
        self.server_address = ("", PORT)
        super().server_bind()

    @property
    def url(self) -> str:
        return os.environ["URL"]


def main() -> None:
    files = {path.name: path.read_bytes() for path in MODEL.iterdir() if path.name != "caracal-checksums.json"}
    printed = 0
    with PodHub(files) as hub:
        hub.faults.pause_s = PAUSE_S  # after each 64 KiB
        while True:
            for name, begin, end in hub.ranges[printed:]:
                print(json.dumps({"name": name, "begin": begin, "end": end}), flush=True)
                printed += 1
            time.sleep(0.1)


if __name__ == "__main__":
    main()
