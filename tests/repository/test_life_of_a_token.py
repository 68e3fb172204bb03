"""Every file that docs/life-of-a-token.md names exists."""

import re
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
DOCUMENT = REPO / "docs" / "life-of-a-token.md"


def test_every_named_file_exists() -> None:
    rows = [line for line in DOCUMENT.read_text().splitlines() if re.match(r"\| \d+ \|", line)]
    assert len(rows) >= 10, "the document is a numbered table"
    numbers = [int(row.split("|")[1]) for row in rows]
    assert numbers == list(range(1, len(rows) + 1))
    for row in rows:
        files = re.findall(r"`([\w./-]+\.(?:py|proto|cpp|h))`", row)
        assert files, f"a row without a file: {row}"
        missing = [name for name in files if not (REPO / name).exists()]
        assert not missing, f"named but missing: {missing}"
