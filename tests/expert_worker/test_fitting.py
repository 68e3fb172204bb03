"""How many experts a worker says fit its memory."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from support.tiny_checkpoint import make_checkpoint

from services.checkpoint.device import CPU
from services.checkpoint.reader import Checkpoint
from services.expert_worker.memory import PERCENT, experts_that_fit
from services.process.memory import host_free


def test_as_many_as_fit_a_part_of_what_is_free(tmp_path: Path) -> None:
    config = Checkpoint.open(make_checkpoint(tmp_path / "model")).config
    one = 3 * config.hidden_size * config.expert_ffn_hidden_size * 2
    fitting, free = experts_that_fit(config, torch.bfloat16, CPU), host_free()
    assert 0.5 < fitting * one / (free * PERCENT / 100) < 2, "other processes take and give back meanwhile"
    assert 1.5 < fitting / experts_that_fit(config, torch.float32, CPU) < 2.5
    assert experts_that_fit(replace(config, hidden_size=1 << 50), torch.bfloat16, CPU) == 1
