"""What the slice's two processes are told, as one argument of JSON."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict, dataclass
from typing import Any

import torch

from bench.gpu.random_checkpoint import Drawn


@dataclass(frozen=True, kw_only=True)
class SliceSpec:
    """`address` is the expert worker's, which only the attention side is told."""

    config: dict[str, Any]
    kind: str  # of the experts: bf16 | fp8
    device: str
    rows: tuple[int, ...]
    context: int
    warm_up: int  # steps of each mode that are not counted
    steps: int
    page_size: int
    address: str = ""

    @classmethod
    def from_arguments(cls) -> SliceSpec:
        return cls(**json.loads(sys.argv[1]))

    def as_argument(self) -> str:
        return json.dumps(asdict(self))

    def checkpoint(self) -> Drawn:
        return Drawn(self.config, fp8_experts=self.kind == "fp8")

    @property
    def most_rows(self) -> int:
        return max(self.rows)


def share_one_gpu(role: str) -> None:
    """Lets two ranks of NCCL be on one GPU; before NCCL's first call."""
    os.environ["NCCL_SOCKET_IFNAME"] = "lo"
    version = torch.cuda.nccl.version()  # type: ignore[no-untyped-call]  # torch leaves it bare
    if version >= (2, 30):
        os.environ["NCCL_MULTI_RANK_GPU_ENABLE"] = "1"
    else:
        os.environ["NCCL_HOSTID"] = role


def say(message: dict[str, Any]) -> None:
    """One line of JSON to the benchmark."""
    print(json.dumps(message), flush=True)
