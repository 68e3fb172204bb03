"""Devices are named before anything is loaded, and what is not there is refused by name."""

from __future__ import annotations

import pytest
import torch
from caracal_kernels import available

from services.checkpoint.device import CPU, NoSuchDevice, find_device
from services.checkpoint.numerics import kernels_of


def test_the_cpu_is_always_there() -> None:
    assert find_device("cpu") == CPU
    assert kernels_of(CPU) == available()


@pytest.mark.parametrize("name", ["", "gpu", "cuda:x", "cuda:-1", "cpu:0", "CUDA"])
def test_names_that_are_no_devices(name: str) -> None:
    with pytest.raises(NoSuchDevice, match="CARACAL_DEVICE is "):
        find_device(name)


def test_a_gpu_too_many() -> None:
    count = torch.cuda.device_count()
    with pytest.raises(NoSuchDevice, match=r"CARACAL_DEVICE is 'cuda:\d+': this machine has (no|\d+) GPU"):
        find_device(f"cuda:{count}")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_a_gpu_is_another_class_of_kernels() -> None:
    assert find_device("cuda") == torch.device("cuda", 0)
    assert kernels_of(find_device("cuda")).startswith("triton sm_")
