"""`make faults-page`: writes the results of docs/faults.md again, from the files that `make faults` has written."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path

from faults.outcome import Outcome
from faults.table import summary, table

REPO = Path(__file__).resolve().parents[2]
PAGE, RESULTS = REPO / "docs" / "faults.md", REPO / "bench" / "results"
WIDTH = 160
NAMES = ("faults", "faults-alone")  # of the files


def filled(text: str, folder: Path = RESULTS) -> str:
    """The page with each result in its place. Raises ValueError."""
    for name in NAMES:
        outcome = Outcome.read(json.loads((folder / f"{name}.json").read_text(encoding="utf-8")))
        begin, end = f"<!-- {name}: made by `make faults-page` -->\n", f"<!-- end of {name} -->"
        if begin not in text or end not in text:
            raise ValueError(f"{PAGE.name} has no marks of {name}")
        words = textwrap.fill(summary(outcome), WIDTH, break_long_words=False, break_on_hyphens=False)
        made = f"\n{words}\n\n{table(outcome)}\n\n"
        text = text[: text.index(begin)] + begin + made + text[text.index(end) :]
    return text


def main() -> None:
    text = PAGE.read_text(encoding="utf-8")
    new = filled(text)
    if new != text:
        PAGE.write_text(new, encoding="utf-8")
        print(f"{PAGE.name} has new results")


if __name__ == "__main__":
    main()
