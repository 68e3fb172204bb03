"""Generates the table of values in k8s/README.md from the comments of values.yaml."""

import json

from k8s.tools.values import CHART, Entry, read_entries

_BEGIN = "<!-- values: made by `make chart` -->\n"
_END = "<!-- end of values -->"


def _row(entry: Entry) -> str:
    default = json.dumps(entry.default, ensure_ascii=False)
    prose = entry.prose.replace("|", "\\|")
    return f"| `{entry.name}` | `{default}` | {prose} |"


def _table() -> str:
    """One row for each leaf that has prose; sections are described by their leaves."""
    rows = [_row(entry) for entry in read_entries() if not entry.section and entry.prose]
    return "\n".join(["| key | default | meaning |", "|---|---|---|", *rows]) + "\n"


def render() -> str:
    """Returns the README with its table replaced. Raises ValueError when the markers are missing."""
    text = (CHART / "README.md").read_text()
    before, begin, rest = text.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not begin or not end:
        raise ValueError("k8s/README.md lacks the markers around its table of values")
    return before + begin + _table() + end + after
