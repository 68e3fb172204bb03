"""What the tests on a cluster take for an answer: nothing that a caller has sent may go missing unnoticed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from k8s.e2e.records import CALLERS, Records, Stalls

CLIENT = Path(__file__).resolve().parents[2] / "k8s/e2e/client.py"


def _answer(caller: str, number: int, error: str = "") -> str:
    record = {"caller": caller, "number": number, "digest": "d", "error": error, "started": float(number)}
    return json.dumps(record | {"token_times": [5.0, 7.0]})


def _log(sent: int = 2) -> list[str]:
    answers = [_answer(caller, number) for caller in CALLERS for number in range(sent)]
    return answers + [json.dumps({"caller": caller, "sent": sent}) for caller in CALLERS]


def _missing(lines: list[str]) -> str:
    records = Records()
    records.read("\n".join(lines))
    return records.missing()


def test_a_whole_log_lacks_nothing() -> None:
    assert _missing(_log()) == ""
    assert _missing(["Traceback (most recent call last):", *_log(), "{half a rec"]) == ""


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        ([], "have not ended: grpc-0"),
        ([line for line in _log() if '"http-1"' not in line], "these callers have not ended: http-1"),
        (_log()[1:], "grpc-0 has sent 2 requests, and of 1 nothing was read: [0]"),
        ([line for line in _log() if '"grpc-3", "number": 1' not in line], "grpc-3 has sent 2 requests"),
        (_log(0), "grpc-0 has sent nothing"),
    ],
)
def test_what_is_missing_is_named(lines: list[str], why: str) -> None:
    assert why in _missing(lines)


def test_a_log_that_was_rotated_is_put_together_from_several_readings() -> None:
    lines, records = _log(3), Records()
    for begin in range(0, len(lines), 10):
        records.read("\n".join(lines[begin : begin + 12]))
    assert records.missing() == ""
    assert records.counts() == dict.fromkeys(CALLERS, 3)
    assert Stalls.of(records.answers()).requests == 3 * len(CALLERS)


@pytest.mark.processes
def test_every_request_of_the_client_has_a_record(tmp_path: Path) -> None:
    """Of a router that is not there: each ends in an error, and the callers in order."""
    variables = {"ROUTER": "127.0.0.1", "MODEL": "m", "ROUNDS": "2", "STOP": str(tmp_path / "stop")}
    done = subprocess.run(
        [sys.executable, str(CLIENT)], env={**os.environ, **variables}, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    records = Records()
    records.read(done.stdout)
    assert records.missing() == ""
    assert {bool(answer.error) for answer in records.answers()} == {True}
