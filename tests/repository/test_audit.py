"""`make audit` says of an image what is known of it: clean, vulnerable, or not scanned."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from k8s.supply.audit import FOUND, scan

pytestmark = pytest.mark.processes


@pytest.mark.parametrize(
    ("code", "said"), [(0, []), (FOUND, ["trivy found vulnerabilities"]), (1, ["not scanned: trivy ended with 1"])]
)
def test_how_a_scanner_ends_is_what_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, said: list[str]
) -> None:
    (tmp_path / "trivy").write_text(f"#!{sys.executable}\nraise SystemExit({code})\n")
    (tmp_path / "trivy").chmod(0o700)
    monkeypatch.setenv("PATH", str(tmp_path))
    image = tmp_path / "image.tar"
    image.write_bytes(b"")
    assert list(scan(image)) == [f"{image}: {what}" for what in said]


def test_an_image_that_is_not_scanned_is_a_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert list(scan(tmp_path / "none.tar")) == [f"{tmp_path}/none.tar: not scanned: there is no such file"]
    image = tmp_path / "image.tar"
    image.write_bytes(b"")
    assert list(scan(image)) == [f"{image}: not scanned: neither trivy nor grype is installed"]
