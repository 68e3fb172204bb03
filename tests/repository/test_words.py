"""One word, one meaning: words that the project used for several things, or alone, stay out of it.

Each is looked for as a whole word and as a part of an identifier. CHANGELOG.md may name what was renamed.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]
SUFFIXES = {".py", ".pyi", ".proto", ".cpp", ".h", ".md", ".yaml", ".tpl", ".txt", ".toml", ".jinja", ".json", ".svg"}
SUFFIXES.add("")  # Makefile, Dockerfile
LEFT_OUT = re.compile(
    r"CHANGELOG\.md|LICENSE|tests/repository/test_words\.py|.*_pb2(_grpc)?\.pyi?|models/.*|bench/results/.*\.json"
    r"|docs/training-log\.jsonl|.*/tokenizer.*\.json"
)

# Retired word -> what is said instead. Where a word has an everyday use that stays, the use is in ALLOWED.
RETIRED = {
    "pair": "assignment, P2P group, session",
    "pairs": "assignments, P2P groups",
    "slot": "choice, slot_mapping, place",
    "slots": "choices, slot_mapping, places",
    "home": "reply index, back",
    "homes": "reply indices",
    "grievance": "peer failure",
    "grievances": "peer failures",
    "aggrieved": "record_failure",
    "complain": "warn, record",
    "doubt": "suspect",
    "doubts": "suspects",
    "trust": "mark healthy",
    "patience": "timeout",
    "exile": "backoff",
    "exiled": "backed off",
    "exiles": "backoffs",
    "strangers": "mismatched workers",
    "roster": "worker registry",
    "refusal": "rejection, capacity shortage, invalid setting",
    "refusals": "rejections, capacity shortages, invalid settings",
    "fleet": "pool, workers",
    "told": "notified, pushed",
    "heard": "received",
    "spoke": "made its first call",
    "mute": "idle",
    "settle": "reconcile, wait, synchronize",
    "settled": "reconciled, waited",
    "settles": "decides, reconciles",
    "settling": "reconciling, waiting",
    "holding": "placement state",
    "obstacle": "not-ready reason",
    "obstacles": "not-ready reasons",
    "bury": "reap",
    "farewell": "clean exit",
    "last_words": "last log line",
    "polite": "grace",
    "lived": "request lifecycle",
    "shield": "special-token guard",
    "rival": "baseline",
    "rivals": "baselines",
    "nursery": "worker pool",
    "liar": "a worker with wrong answers",
    "peaceful": "undisturbed",
    "barren": "without progress",
    "moved_house": "address changed",
    "one_at_a_time": "interpreter",
}
ALLOWED = re.compile(
    r"slots=True"
    r"|\$?\b(XDG_CACHE_)?HOME\b|\bhome directory\b|home_directory|Path\.home\(\)|/home/|expanduser"
    r"|slot_mapping|NO_SLOT"
    r"|key[-/ ]value pairs?|socketpair"
    r"|object_pairs_hook|long-lived"
    r"|std::pair"  # a name of the C++ library
    r"|\"refusal\""  # a field and a type of OpenAI's
    r"|You have not told me|My home is in"  # the built-in model's dialogues
    r"|PADDING_SLOT_MAPPING|slot mapping"
)


def texts() -> list[tuple[str, str]]:
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=REPO, capture_output=True, text=True, check=True
    ).stdout.split("\n")
    paths = [name for name in listed if name and Path(name).suffix in SUFFIXES and not LEFT_OUT.fullmatch(name)]
    return [(name, (REPO / name).read_text(errors="replace")) for name in paths if (REPO / name).is_file()]


@pytest.mark.processes
def test_no_retired_word_is_back() -> None:
    words = "|".join(sorted(RETIRED, key=len, reverse=True))
    retired = re.compile(rf"(?<![A-Za-z0-9])({words})(?![A-Za-z0-9])", re.IGNORECASE)
    found = [
        f"{name}:{number}: {match[1]} ({RETIRED[match[1].lower()]})"
        for name, text in texts()
        for number, line in enumerate(text.splitlines(), 1)
        for match in retired.finditer(ALLOWED.sub("", line))
    ]
    assert not found, "\n".join([f"{len(found)} in all", *found[:40]])
