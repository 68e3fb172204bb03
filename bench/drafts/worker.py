"""An attention worker whose drafts are right at a set rate: `python -m bench.drafts.worker`, with a worker's variables.

BENCH_DRAFTS_KNOWN names a JSON file with the ids of whole sequences, BENCH_DRAFTS_RATE is the rate.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from bench.drafts.rigged import RiggedDrafts
from services.attention_worker.__main__ import main as serve

KNOWN, RATE = "BENCH_DRAFTS_KNOWN", "BENCH_DRAFTS_RATE"


def main() -> None:
    known = json.loads(Path(os.environ[KNOWN]).read_text())
    rate = float(os.environ[RATE])
    serve(lambda model: RiggedDrafts(model, known, rate))


if __name__ == "__main__":
    main()
