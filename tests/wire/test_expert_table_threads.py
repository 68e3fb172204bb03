"""Experts are loaded and dropped while others read the counts: no thread waits for another that waits for it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from services.transport.native_extension import unavailable

pytestmark = [pytest.mark.processes, pytest.mark.skipif(bool(unavailable()), reason="not compiled")]

# In a process of its own: threads that block each other could not be ended.
SCRIPT = """
import sys, threading
import torch
from services.transport.native_extension import native

sys.setswitchinterval(1e-5)
table = native().ExpertTable(2, 64, 16, 1)
ended = threading.Event()

def count():
    while not ended.is_set():
        table.take_counts()

readers = [threading.Thread(target=count) for _ in range(3)]
for reader in readers:
    reader.start()
for turn in range(4000):
    table.set(turn % 2, turn % 64, torch.zeros(64, 16), torch.zeros(16, 32))
    if turn % 3 == 0:
        table.drop(turn % 2, turn % 64)
ended.set()
for reader in readers:
    reader.join()
print("no thread is stuck")
"""


def test_changing_and_counting_at_once() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=120, check=False)
    assert "no thread is stuck" in done.stdout, done.stderr
