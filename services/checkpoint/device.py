"""The device that has a worker's weights and runs its kernels: the CPU, or one GPU."""

from __future__ import annotations

import torch
from caracal_kernels import cpu_backend

CPU = torch.device("cpu")


class NoSuchDevice(ValueError):
    """A device that this machine does not have; the message begins with the variable's name."""


def find_device(name: str, rank: int = 0) -> torch.device:
    """The device that CARACAL_DEVICE names: cpu, cuda (the first GPU) or cuda:N. Rank r takes the r-th after it.

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
    """Whether experts in fp8 are computed in fp8 on the device, where that gives bits of its own.

    The compiled CPU kernels compute them in bf16, with the bits of dequantized weights, also where they stay 8-bit.
    """
    return device.type == "cuda" or cpu_backend() == "triton"
