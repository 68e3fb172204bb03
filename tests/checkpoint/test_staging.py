"""Files reach a device's memory whole, in chunks of any size; the same on a GPU where there is one."""

from __future__ import annotations

import os
import zlib
from pathlib import Path

import pytest
import torch

from services.checkpoint.staging import DoubleBuffer, Staging

DEVICES = ["cpu"] + (["cuda"] if torch.cuda.is_available() else [])
SIZES = [0, 1, 63, 64, 65, 128, 1000]


@pytest.fixture
def content(tmp_path: Path, request: pytest.FixtureRequest) -> bytes:
    """The middle of `tmp_path / "file"`, after 4 bytes and before 4 others."""
    content = os.urandom(request.param)
    (tmp_path / "file").write_bytes(b"head" + content + b"tail")
    return content


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("content", SIZES, indirect=True)
def test_bytes_arrive_unchanged(tmp_path: Path, device: str, content: bytes) -> None:
    staging = Staging(torch.device(device))
    with (tmp_path / "file").open("rb") as stream:
        for _ in range(2):
            stream.seek(4)
            found, checksum = staging.read(stream, len(content))
            assert checksum == zlib.crc32(content)
            assert found.device.type == device
            assert bytes(found.cpu().numpy()) == content
    assert staging.bytes == 2 * len(content)
    assert staging.gigabytes_per_second > 0 or not content


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("chunk_bytes", [64, 7])
@pytest.mark.parametrize("content", SIZES, indirect=True)
def test_bytes_arrive_unchanged_through_buffers(tmp_path: Path, device: str, chunk_bytes: int, content: bytes) -> None:
    buffers = DoubleBuffer(torch.device(device), chunk_bytes)
    with (tmp_path / "file").open("rb") as stream:
        for _ in range(2):  # the buffers are reused
            stream.seek(4)
            target = torch.empty(len(content), dtype=torch.uint8, device=device)
            assert buffers.read(stream, target) == (len(content), zlib.crc32(content))
            assert bytes(target.cpu().numpy()) == content


def test_a_file_that_ends_early_gives_what_it_has(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(range(20)))
    with (tmp_path / "file").open("rb") as stream:
        stream.seek(4)
        found, checksum = Staging(torch.device("cpu")).read(stream, 100)
        assert bytes(found.numpy()) == bytes(range(4, 20))
        assert checksum == zlib.crc32(bytes(range(4, 20)))


@pytest.mark.parametrize("chunk_bytes", [8, 64])
def test_a_file_that_ends_early_through_buffers(tmp_path: Path, chunk_bytes: int) -> None:
    (tmp_path / "file").write_bytes(bytes(range(20)))
    target = torch.zeros(100, dtype=torch.uint8)
    with (tmp_path / "file").open("rb") as stream:
        stream.seek(4)
        found = DoubleBuffer(torch.device("cpu"), chunk_bytes).read(stream, target)
    assert found == (16, zlib.crc32(bytes(range(4, 20))))
    assert bytes(target[:16].numpy()) == bytes(range(4, 20))
