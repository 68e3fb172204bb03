"""docs/studies/README.md: each study's findings and table, between their marks."""

from __future__ import annotations

import json
from pathlib import Path

from bench.document_tables import with_blocks, write_again
from bench.studies.findings import text_of
from bench.studies.study import STUDIES
from bench.studies.tables import TABLES

DOCUMENT = STUDIES / "README.md"


def filled(text: str, folder: Path = STUDIES) -> str:
    """The document with the findings and the table of each study in its place."""
    found = {name: json.loads((folder / f"{name}.json").read_text(encoding="utf-8")) for name in TABLES}
    made = {name: f"{text_of(name, found[name])}\n{TABLES[name](found[name])}" for name in TABLES}
    return with_blocks(text, "python -m bench.studies", made)


def update() -> None:
    """Writes the document again, if it is another one."""
    write_again(DOCUMENT, filled)
