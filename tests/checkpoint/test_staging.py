"""Files go to a device whole, in whatever pieces; the same on a GPU where there is one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from services.checkpoint.staging import Staging

DEVICES = ["cpu"] + (["cuda"] if torch.cuda.is_available() else [])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("size", [0, 1, 63, 64, 65, 128, 1000])
def test_what_arrives_is_what_lies_there(tmp_path: Path, device: str, size: int) -> None:
    content = os.urandom(size)
    (tmp_path / "file").write_bytes(b"head" + content + b"tail")
    for chunk in (0, 64, 7):
        staging = Staging(torch.device(device), chunk)
        with (tmp_path / "file").open("rb") as stream:
            for _ in range(2):  # buffers are used again
                stream.seek(4)
                found = staging.read(stream, size)
                assert found.device.type == device
                assert bytes(found.cpu().numpy()) == content
        assert staging.bytes == 2 * size
        assert staging.gigabytes_per_second > 0 or not size


@pytest.mark.parametrize("chunk", [0, 8, 64])
def test_a_file_that_ends_early_gives_what_it_has(tmp_path: Path, chunk: int) -> None:
    (tmp_path / "file").write_bytes(bytes(range(20)))
    with (tmp_path / "file").open("rb") as stream:
        stream.seek(4)
        assert bytes(Staging(torch.device("cpu"), chunk).read(stream, 100).numpy()) == bytes(range(4, 20))
