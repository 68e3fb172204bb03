"""Where a worker's weights lie and its kernels run: the CPU, or one GPU."""

from __future__ import annotations

import torch
from caracal_kernels import available

CPU = torch.device("cpu")


class NoSuchDevice(ValueError):
    """A device that this machine does not have; the message begins with the variable's name."""


def find_device(name: str, rank: int = 0) -> torch.device:
    """Of CARACAL_DEVICE: cpu, cuda (the first GPU that the process sees) or cuda:N; of several ranks each its own.

    Raises NoSuchDevice.
    """
    kind, _, number = name.partition(":")
    if kind not in ("cpu", "cuda") or (number and not (kind == "cuda" and number.isdecimal())):
        raise NoSuchDevice(f"CARACAL_DEVICE is {name!r}, it must be cpu, cuda or cuda:N")
    if kind == "cpu":
        return CPU
    count, index = torch.cuda.device_count(), int(number or 0) + rank
    if index >= count:
        have = f"{count} GPU{'s' if count > 1 else ''}" if count else "no GPU that torch can use"
        who = f" and rank {rank} takes number {index}" if rank else ""
        raise NoSuchDevice(f"CARACAL_DEVICE is {name!r}{who}: this machine has {have} (torch {torch.__version__})")
    return torch.device("cuda", index)


def computes_fp8(device: torch.device) -> bool:
    """Whether weights that are stored in fp8 stay so there; the CPU's compiled kernels take wider ones only."""
    return device.type == "cuda" or available() == "triton"
