"""Devices are checked before anything is loaded; one that is not there is named."""

from __future__ import annotations

import pytest
import torch
from caracal_kernels import cpu_backend

from services.checkpoint.device import CPU, NoSuchDevice, find_device
from services.checkpoint.numerics import kernels_of


def test_the_cpu_is_always_there() -> None:
    assert find_device("cpu") == CPU
    assert kernels_of(CPU) == cpu_backend()


@pytest.mark.parametrize("name", ["", "gpu", "cuda:x", "cuda:-1", "cpu:0", "CUDA"])
def test_names_that_are_no_devices(name: str) -> None:
    with pytest.raises(NoSuchDevice, match="CARACAL_DEVICE is "):
        find_device(name)


def test_a_gpu_number_beyond_the_last() -> None:
    count = torch.cuda.device_count()
    with pytest.raises(NoSuchDevice, match=r"CARACAL_DEVICE is 'cuda:\d+': this machine has (no|\d+) GPU"):
        find_device(f"cuda:{count}")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_a_gpu_runs_other_kernels() -> None:
    assert find_device("cuda") == torch.device("cuda", 0)
    assert kernels_of(find_device("cuda")).startswith("triton sm_")
