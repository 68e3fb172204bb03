"""What documents and docstrings cite is in the repository."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from support.documented_commands import REPO, documents

FOLDERS = "services|kernels|proto|training|models|k8s|tests|bench|docs"
# A file or folder as code spells it. Not looked for: placeholders, what is made by a run, transformers' own.
PATH = re.compile(rf"`((?:{FOLDERS})/[A-Za-z0-9_./-]+)`")
MADE = re.compile(r"bench/results/gpu\.|training/runs|.*/(NAME|MODULE)\b|.*/\.$|models/longcat_flash/")


def cited(text: str, folder: Path) -> list[Path]:
    text = re.sub(r"^```(?:.*\n)*?```$", "", text, flags=re.M)
    links = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text)
    found = [folder / link for link in links if not re.match(r"[a-z]+:", link)]
    return found + [REPO / name for name in PATH.findall(text) if not MADE.match(name)]


@pytest.mark.parametrize("path", documents(), ids=lambda path: str(path.relative_to(REPO)))
def test_documents_cite_what_exists(path: Path) -> None:
    missing = [str(file) for file in cited(path.read_text(), path.parent) if not file.exists()]
    assert not missing


def test_docstrings_cite_what_exists() -> None:
    missing = [
        f"{path.relative_to(REPO)}: {name}"
        for folder in ("services", "kernels", "training", "bench", "k8s", "tests")
        for path in (REPO / folder).rglob("*.py")
        for name in re.findall(r"\b((?:docs|shared)/[A-Za-z0-9_/-]+\.(?:md|txt|svg|json))\b", path.read_text())
        if not (REPO / name).exists()
    ]
    assert not missing
