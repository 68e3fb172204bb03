"""TLS handshakes that fail are counted by reason and logged now and then, and nothing else of stderr is lost."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.certificates import Certificates
from support.failing_handshakes import LOG_S

from services.process.children import import_path
from services.security.identity import EXPERT
from services.transport.native_extension import unavailable

pytestmark = [
    pytest.mark.processes,
    pytest.mark.skipif(bool(unavailable()), reason="there is no native extension"),
]
PROGRAM = Path(__file__).parents[1] / "support/failing_handshakes.py"
TRIES = 30


@pytest.fixture
def process(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A server with TLS that is tried by outsiders, TRIES times in each way."""
    good, other = Certificates(tmp_path / "good"), Certificates(tmp_path / "other")
    good.issue(EXPERT)
    other.issue(EXPERT)
    command = [sys.executable, str(PROGRAM), str(good.folder), str(other.folder), str(TRIES)]
    environment = {"PYTHONPATH": f"{import_path()}:{PROGRAM.parents[1]}", "PATH": "/usr/bin:/bin"}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as running:
        yield running
        running.kill()


def test_reasons_are_counted_and_logged_in_few_lines(process: subprocess.Popen[str]) -> None:
    began = time.monotonic()
    output, errors = process.communicate(timeout=90)
    metrics = json.loads(output)
    counted = {re.sub(r'.*reason="(.*)"}$', r"\1", name): value for name, value in metrics.items()}
    assert counted == {
        "peer did not return a certificate": TRIES,
        "unable to get local issuer certificate": TRIES,
        "http request": TRIES,
    }
    assert "Handshake failed" not in errors
    logged = [json.loads(line) for line in errors.splitlines() if "TLS handshakes have failed" in line]
    assert 1 <= len(logged) <= 1 + (time.monotonic() - began) / LOG_S
    assert logged[-1]["since_start"] == 3 * TRIES
    assert "written by C\n" in errors
    assert "written by Python\n" in errors
    assert errors.endswith("terminate called without an active exception\n"), "the last words of a process that aborts"
