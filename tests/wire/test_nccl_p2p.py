"""A P2P group over NCCL: two ranks on one GPU, which NCCL allows when configured so."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest
import torch
from support.expert_workers import REPO
from support.nccl_peer import DONE

from services.process.addresses import free_port

NOT_ALLOWED = r"Duplicate GPU|Multiple Ranks are using the same GPU|invalid usage"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here: P2P groups are tested over gloo only")
def test_payload_goes_both_ways_and_a_dead_peer_is_noticed() -> None:
    port = str(free_port())
    path = os.pathsep.join(str(REPO / p) for p in ("", "kernels", "proto", "tests"))
    peers = [
        subprocess.Popen(
            [sys.executable, str(REPO / "tests" / "support" / "nccl_peer.py"), rank, port],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ | {"PYTHONPATH": path},
        )
        for rank in ("0", "1")
    ]
    try:
        outputs = [peer.communicate(timeout=150)[0] for peer in peers]
    finally:
        for peer in peers:
            peer.kill()
    output_of_both = "\n".join(outputs)
    if re.search(NOT_ALLOWED, output_of_both):
        pytest.skip(f"NCCL does not allow two ranks on one GPU: {output_of_both[-500:]}")
    assert all(DONE in output for output in outputs), output_of_both
    noticed = re.search(r"noticed after ([\d.]+) s", outputs[0])
    assert noticed, output_of_both
    assert float(noticed[1]) < 2
