"""`python -m support.metrics_page`: docs/metrics.md, from the collectors of the three roles themselves."""

from __future__ import annotations

import tempfile
from pathlib import Path

from support.live_metrics import registries

INTRO = """# Metrics

Made by `make metrics` from the collectors; a test compares it with the code. Counters are queried with the suffix
`_total`, histograms with `_bucket`, `_sum` and `_count`, infos with `_info`. Which of them to watch:
[operations.md](operations.md#what-to-watch).
"""
TITLES = {"router": "Router", "attention": "Attention worker", "expert": "Expert worker"}


def markdown() -> str:
    """Returns the text of docs/metrics.md."""
    parts = [INTRO]
    with tempfile.TemporaryDirectory() as folder:
        for role, registry in registries(Path(folder)).items():
            parts.append(f"\n## {TITLES[role]}\n\n| metric | type | says |\n|---|---|---|\n")
            families = sorted(registry.collect(), key=lambda family: family.name)
            parts += [f"| `{family.name}` | {family.type} | {family.documentation} |\n" for family in families]
    return "".join(parts)


if __name__ == "__main__":
    print(markdown(), end="")
