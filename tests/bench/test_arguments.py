"""Arguments of the benchmarks: what cannot be measured or written is said before anything is measured."""

from __future__ import annotations

from argparse import ArgumentTypeError
from pathlib import Path

import pytest

from bench.arguments import file, folder, number


@pytest.mark.parametrize("text", ["0", "-1", "x", "", "1.5", "99999999999999999999"])
def test_what_is_no_number_in_the_range_is_named(text: str) -> None:
    assert number(1)("7") == 7
    with pytest.raises(ArgumentTypeError, match="is no whole number of 1 to 9"):
        number(1, 9)(text)


def test_folders_are_made_and_what_cannot_be_written_is_named(tmp_path: Path) -> None:
    assert folder(str(tmp_path / "a" / "b")).is_dir()
    assert file(str(tmp_path / "c" / "d.json")).parent.is_dir()
    (tmp_path / "plain").touch()
    for parse, text in ((folder, tmp_path / "plain"), (folder, tmp_path / "plain" / "x"), (file, tmp_path / "a")):
        with pytest.raises(ArgumentTypeError, match=str(text)):
            parse(str(text))
