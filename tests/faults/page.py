"""`make faults-page`: writes the results of docs/faults.md again, from the files that `make faults` has written."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path

from faults.outcome import Outcome
from faults.table import summary, table

from bench.document_tables import with_blocks, write_again

REPO = Path(__file__).resolve().parents[2]
PAGE, RESULTS = REPO / "docs" / "faults.md", REPO / "bench" / "results"
WIDTH = 160
NAMES = ("faults", "faults-alone")  # of the files


def filled(text: str, folder: Path = RESULTS) -> str:
    """The page with each result in its place. Raises ValueError."""
    outcomes = {name: Outcome.read(json.loads((folder / f"{name}.json").read_text("utf-8"))) for name in NAMES}
    return with_blocks(text, "make faults-page", {name: f"\n{_block(one)}\n" for name, one in outcomes.items()})


def _block(outcome: Outcome) -> str:
    words = textwrap.fill(summary(outcome), WIDTH, break_long_words=False, break_on_hyphens=False)
    return f"{words}\n\n{table(outcome)}"


if __name__ == "__main__":
    write_again(PAGE, filled)
