"""The story document names files; a file that is gone makes it a lie."""

import re
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
STORY = REPO / "docs" / "life-of-a-token.md"


def test_every_file_the_story_names_exists() -> None:
    rows = [line for line in STORY.read_text().splitlines() if re.match(r"\| \d+ \|", line)]
    assert len(rows) >= 10, "the story is a numbered table"
    numbers = [int(row.split("|")[1]) for row in rows]
    assert numbers == list(range(1, len(rows) + 1))
    for row in rows:
        files = re.findall(r"`([\w./-]+\.(?:py|proto|cpp|h))`", row)
        assert files, f"a row without a file: {row}"
        missing = [name for name in files if not (REPO / name).exists()]
        assert not missing, f"named but gone: {missing}"
