"""docs/studies/README.md: each study's findings and table, between their marks."""

from __future__ import annotations

import json
from pathlib import Path

from bench.studies.findings import text_of
from bench.studies.study import STUDIES
from bench.studies.tables import TABLES

DOCUMENT = STUDIES / "README.md"


def filled(text: str, folder: Path = STUDIES) -> str:
    """The document with the findings and the table of each study in its place."""
    for name, made in TABLES.items():
        found = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
        begin, end = f"<!-- {name}: made by `python -m bench.studies` -->\n", f"<!-- end of {name} -->"
        if begin not in text or end not in text:
            raise ValueError(f"{DOCUMENT.name} has no marks of {name}")
        between = f"{text_of(name, found)}\n{made(found)}"
        text = text[: text.index(begin)] + begin + between + text[text.index(end) :]
    return text


def update() -> None:
    """Writes the document again, if it is another one."""
    text = DOCUMENT.read_text(encoding="utf-8")
    new = filled(text)
    if new != text:
        DOCUMENT.write_text(new, encoding="utf-8")
        print(f"{DOCUMENT.name} has new tables")
