"""`python -m bench.checksums [--megabytes N] [--out FILE]`: what checksums of weights, messages and pages cost a core.

A file is read from the page cache as workers read weights, and without the checksum; pages are of the published shape's
56 latent caches; messages are sealed and checked. Interleaved, the best of rounds.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from caracal_kernels import crc32
from caracal_proto.sealing import Seals, sealed

from bench import arguments
from bench.report import machine
from services.checkpoint.scrub import memory_checksum
from services.checkpoint.staging import Staging

MEGABYTES, ROUNDS = 16, 40
CACHES, PAGE, LATENT = 56, 64, 576
MESSAGES = (256, 64 << 10, 4 << 20)
OUT = Path(__file__).parent / "results" / "checksums.json"


def best_s(works: dict[str, Callable[[], object]], rounds: int = ROUNDS) -> dict[str, float]:
    """The shortest time of each, of rounds in which they take turns."""
    found = dict.fromkeys(works, float("inf"))
    for _ in range(rounds):
        for name, work in works.items():
            began_s = time.perf_counter()
            work()
            found[name] = min(found[name], time.perf_counter() - began_s)
    return found


def of_bytes(size: int) -> dict[str, float]:
    """Gigabytes per second of the checksum itself, and of reading a file with and without it."""
    data = os.urandom(size)
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()

        def read_plain() -> None:
            with open(file.name, "rb") as stream:
                stream.readinto(torch.empty(size, dtype=torch.uint8).numpy().data)

        def read() -> None:
            with open(file.name, "rb") as stream:
                Staging(torch.device("cpu")).read(stream, size)

        works: dict[str, Callable[[], object]] = {
            "crc32": lambda: crc32(data),
            "zlib": lambda: zlib.crc32(data),
            "read": read,
            "read_without": read_plain,
        }
        return {name: round(size / seconds / 1e9, 2) for name, seconds in best_s(works).items()}


def of_a_page() -> float:
    """Microseconds of a page in all caches."""
    caches = [torch.randn(8, PAGE, LATENT).bfloat16() for _ in range(CACHES)]
    works: dict[str, Callable[[], object]] = {"all": lambda: [memory_checksum(c[p] for c in caches) for p in range(8)]}
    return round(1e6 * best_s(works)["all"] / 8, 1)


def of_messages() -> dict[str, float]:
    """Microseconds of sealing and checking a message, by its bytes."""
    data = {str(size): os.urandom(size) for size in MESSAGES}
    works: dict[str, Callable[[], object]] = {size: partial(_seal_and_check, each) for size, each in data.items()}
    return {size: round(1e6 * seconds, 1) for size, seconds in best_s(works, 50).items()}


def _seal_and_check(data: bytes) -> None:
    Seals().check(sealed(data))


def main() -> None:
    parser = argparse.ArgumentParser(description="Time the checksums of weights, messages and pages.")
    parser.add_argument("--megabytes", type=arguments.number(1), default=MEGABYTES)
    parser.add_argument("--out", type=arguments.file, default=OUT, help="a JSON file for the figures")
    args = parser.parse_args()
    torch.set_num_threads(1)
    result: dict[str, Any] = {
        "machine": machine(),
        "gigabytes_per_second": of_bytes(args.megabytes << 20),
        "page_us": of_a_page(),
        "message_us": of_messages(),
    }
    print(json.dumps(result, indent=1))
    args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
