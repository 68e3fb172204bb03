"""The arguments of the slice's two processes, as one argument of JSON."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict, dataclass
from typing import Any

import torch

from bench.gpu.random_checkpoint import RandomCheckpoint


@dataclass(frozen=True, kw_only=True)
class SliceSpec:
    """What the slice measures. `address` is the expert process's, for the attention process only."""

    config: dict[str, Any]
    kind: str  # of the experts: bf16 | fp8
    device: str
    rows: tuple[int, ...]
    context: int
    warm_up: int  # steps of each mode before the measured ones
    steps: int
    page_size: int
    address: str = ""

    @classmethod
    def from_arguments(cls) -> SliceSpec:
        return cls(**json.loads(sys.argv[1]))

    def as_argument(self) -> str:
        return json.dumps(asdict(self))

    def checkpoint(self) -> RandomCheckpoint:
        return RandomCheckpoint(self.config, fp8_experts=self.kind == "fp8")

    @property
    def most_rows(self) -> int:
        return max(self.rows)


def share_one_gpu(role: str) -> None:
    """Lets two ranks of NCCL share one GPU; must run before NCCL's first call."""
    os.environ["NCCL_SOCKET_IFNAME"] = "lo"
    version = torch.cuda.nccl.version()
    if version >= (2, 30):
        os.environ["NCCL_MULTI_RANK_GPU_ENABLE"] = "1"
    else:
        os.environ["NCCL_HOSTID"] = role


def send(message: dict[str, Any]) -> None:
    """Prints a message for the benchmark, as one line of JSON."""
    print(json.dumps(message), flush=True)
