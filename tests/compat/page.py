"""docs/compatibility.md: written from the outcomes of a run, and read back."""

from __future__ import annotations

import re
from dataclasses import dataclass

from compat.declared import REPO, Client
from compat.features import FEATURES

PAGE = REPO / "docs" / "compatibility.md"
INTRO = """# Compatibility

Made by `make compat`: the packages as published, none of them changed, each in an environment of its own, against
clusters of real processes. The built-in model answers, its weights in fp32, except under *reasoning*, where a model
that always thinks the same does. CI runs one row of each kind with the `openai` and `anthropic` that the tests have,
and Node where there is one (`tests/compat/test_compat_rows.py`).

* guidellm and aiperf run as commands ([load tools](load-tools.md)), twenty requests for each cell: prompts have as many
  tokens as transformers counts, answers of a set length just that many.
* DSPy needs `dspy.lm15.register_provider`, whose `ModelSupport` declares that the model takes tools and schemas: it
  uses neither with a model that it does not know.
* The built-in model cannot follow the long prompts of DSPy and of smolagents' agents. DSPy's programs ask through an
  adapter that adds none, but for schemas and the forced tool; agents have an empty prompt, and require some call in a
  step, as smolagents does.

✓ works · **✗** fails, the reason below · – the client has no such feature, or another row's package is what it uses

"""


@dataclass(frozen=True)
class Outcome:
    """What a run of one client gave: `failures` by feature, "" where it works."""

    client: Client
    version: str
    failures: dict[str, str]
    not_installed: str = ""


def markdown(outcomes: list[Outcome]) -> str:
    """Returns the page's text."""
    columns = [column for column, _ in FEATURES.values()]
    parts = [INTRO, f"| client | version | {' | '.join(columns)} |\n", "|---|---|" + ":-:|" * len(columns) + "\n"]
    for outcome in outcomes:
        cells = " | ".join(_cell(outcome, feature) for feature in FEATURES)
        parts.append(f"| {outcome.client.title} | {outcome.version} | {cells} |\n")
    parts.append("\n## What fails\n\n")
    parts += _failing(outcomes) or ["Nothing.\n"]
    parts.append("\n## What is exercised\n\n")
    parts += [f"* **{column}**: {what}\n" for column, what in FEATURES.values()]
    parts.append("\nEach row is a module of `tests/compat/clients`, each cell a function there.\n")
    return "".join(parts)


def _cell(outcome: Outcome, feature: str) -> str:
    if feature not in outcome.client.features():
        return "–"
    return "✓" if outcome.failures.get(feature) == "" else "**✗**"


def _failing(outcomes: list[Outcome]) -> list[str]:
    lines = []
    for outcome in outcomes:
        if outcome.not_installed:
            lines.append(f"* {outcome.client.title}: not installed here: {outcome.not_installed}\n")
            continue
        for feature in outcome.client.features():
            if why := outcome.failures.get(feature, "the run ended before it"):
                lines.append(f"* {outcome.client.title}, {FEATURES[feature][0]}: {why}\n")
    return lines


def rows(text: str) -> dict[str, list[str]]:
    """Returns the cells of a page's table after the first, by the client's title."""
    found = [[cell.strip() for cell in line.strip("|").split("|")] for line in re.findall(r"^\|.*\|$", text, re.M)]
    return {cells[0]: cells[1:] for cells in found[2:]}
