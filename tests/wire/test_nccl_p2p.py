"""P2PRegistry over NCCL: two ranks on one GPU, which NCCL allows for tests when it is asked to."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys

import pytest
import torch
from support.expert_fleet import REPO
from support.nccl_peer import DONE

REFUSALS = r"Duplicate GPU|Multiple Ranks are using the same GPU|invalid usage"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here: NCCL pairs are not tested, gloo ones are")
def test_payload_goes_both_ways_and_a_dead_peer_is_noticed() -> None:
    port = str(free_port())
    path = os.pathsep.join(str(REPO / p) for p in ("", "kernels", "proto", "tests"))
    peers = [
        subprocess.Popen(
            [sys.executable, str(REPO / "tests" / "nccl_peer.py"), rank, port],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ | {"PYTHONPATH": path},
        )
        for rank in ("0", "1")
    ]
    try:
        said = [peer.communicate(timeout=150)[0] for peer in peers]
    finally:
        for peer in peers:
            peer.kill()
    everything = "\n".join(said)
    if re.search(REFUSALS, everything):
        pytest.skip(f"NCCL refuses two ranks on one GPU: {everything[-500:]}")
    assert all(DONE in one for one in said), everything
    noticed = re.search(r"noticed after ([\d.]+) s", said[0])
    assert noticed, everything
    assert float(noticed[1]) < 2
