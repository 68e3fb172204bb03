"""What a socket does, between two processes of this machine or to another one."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from bench.planner.socket_link import link_lines, measure
from bench.processes import PATH, REPO

pytestmark = pytest.mark.processes


def test_a_socket_has_a_round_trip_a_rate_one_way_and_a_cost_of_a_message() -> None:
    found = measure(20, 2)
    assert 0 < found.latency_s < 0.1
    assert found.bytes_s > 1e7
    assert 0 <= found.message_s < 0.1
    text = "\n".join(link_lines("here", found, "to 10.0.0.2"))
    assert "measured here: a socket to 10.0.0.2, one way" in text


def test_who_cannot_be_reached_is_named_in_a_line() -> None:
    command = [sys.executable, "-m", "bench.planner.socket_link", "--peer", "127.0.0.1:9"]
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": PATH}, cwd=REPO, capture_output=True, text=True)
    assert done.returncode == 2
    assert "--peer 127.0.0.1:9: " in done.stderr.splitlines()[-1]
