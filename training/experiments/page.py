"""Results of this folder's experiments about bits: JSON, and tables in a page, each between two comments."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from training.experiments.runner import ROOT, Json

PAGE = "determinism.md"


def parser_of(name: str, doc: str | None) -> argparse.ArgumentParser:
    """Returns what every experiment takes, but for its size."""
    parser = argparse.ArgumentParser(prog=f"python -m training.experiments.{name}", description=doc)
    parser.add_argument("--run", type=Path, default=ROOT / "training" / "runs" / name, help="folder of what has ended")
    parser.add_argument("--docs", type=Path, default=ROOT / "docs" / "training", help="where result, plot and table go")
    return parser


def write_result(docs: Path, name: str, result: Json) -> None:
    """Writes `docs`/NAME.json."""
    docs.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"command": f"python -m training.experiments.{name}", **result}, indent=1)
    (docs / f"{name}.json").write_text(text + "\n", encoding="utf-8")


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Returns a Markdown table."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def write_section(docs: Path, name: str, text: str) -> None:
    """Replaces what stands between `<!-- NAME -->` and `<!-- end of NAME -->`; another folder's page is made."""
    page = docs / PAGE
    begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    content = page.read_text(encoding="utf-8") if page.exists() else ""
    section = f"{begin}\n{text}\n{end}"
    if begin not in content:
        page.write_text(f"{content}{section}\n", encoding="utf-8")
        return
    found = re.sub(f"{re.escape(begin)}.*?{re.escape(end)}", lambda _: section, content, flags=re.S)
    page.write_text(found, encoding="utf-8")
