"""row_checks: zlib's CRC-32, and every place where a row may stop being finite."""

from __future__ import annotations

import zlib

import pytest
import torch
from caracal_kernels import row_checks, row_checks_reference
from support.op_inputs import rand


@pytest.mark.parametrize("width", [0, 1, 3, 4, 31, 32, 33, 63, 64, 95, 96, 97, 160, 1000, 8192])
def test_the_checksum_is_zlibs(width: int) -> None:
    rows_BV = rand(5, width)
    checksum_B, finite_B = row_checks(rows_BV)
    assert checksum_B.tolist() == [zlib.crc32(row_V.numpy().tobytes()) for row_V in rows_BV]
    assert finite_B.all()
    assert all(
        torch.equal(one, two) for one, two in zip(row_checks(rows_BV), row_checks_reference(rows_BV), strict=True)
    )


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_one_bad_value_anywhere_is_seen(value: float) -> None:
    rows_BV = rand(70, 70)
    rows_BV[-1] = torch.finfo(torch.float32).max  # their sum is infinite, they are not
    for row in range(69):
        rows_BV[row, row] = value
    _, finite_B = row_checks(rows_BV)
    assert finite_B.tolist() == [False] * 69 + [True]


def test_no_rows() -> None:
    checksum_B, finite_B = row_checks(rand(0, 8))
    assert checksum_B.shape == finite_B.shape == (0,)


@pytest.mark.compiled
def test_other_rows_are_refused_by_name() -> None:
    with pytest.raises(RuntimeError, match="row_checks: rows is Double, expected Float"):
        row_checks(rand(2, 2).double())
