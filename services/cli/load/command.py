"""`caracal bench serve`, once its options are parsed."""

from __future__ import annotations

import asyncio
import json
import math
import sys
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from services.cli.load.report import PER_REQUEST, result, table
from services.cli.load.run import Run, run
from services.cli.load.settings import Dataset, Load, Reporting


@dataclass(frozen=True, kw_only=True)
class Saving:
    """Whether and where the result is written. `detailed`: with the figures and texts of each request."""

    save: bool = False
    detailed: bool = False
    folder: Path = Path()
    name: str = ""
    label: str = ""
    backend: str = "openai"
    metadata: dict[str, str] = field(default_factory=dict)


def bench_serve(
    load: Load, dataset: Dataset, reporting: Reporting, saving: Saving, *, as_json: bool, progress: bool
) -> int:
    """Runs the load, prints the report and returns the exit code. Raises BadOption, ServerError, OSError."""
    if saving.save:
        saving.folder.mkdir(parents=True, exist_ok=True)
    say = partial(print, file=sys.stderr)
    done = asyncio.run(run(load, dataset, lambda text: say(f"note: {text}"), progress))
    found = result(done.outcomes, done.duration, reporting)
    whole = _about(load, dataset, saving, done) | found
    slim = {name: value for name, value in whole.items() if name not in PER_REQUEST}
    _print_notes(done, dataset, say)
    print(json.dumps(whole if saving.detailed else slim) if as_json else table(found, load, reporting))
    if saving.save:
        path = saving.folder / (saving.name or _file_name(load, saving, done.model))
        path.write_text(json.dumps(whole if saving.detailed else slim) + "\n")
        say(f"saved as {path}")
    if done.interrupted:
        return 130
    return 0 if found["completed"] else 1


def _print_notes(done: Run, dataset: Dataset, say: Any) -> None:
    if done.interrupted:
        say(f"interrupted after {len(done.outcomes)} of {dataset.num_prompts} requests; those still open are left out")
    failed = [one for one in done.outcomes if one.error]
    if failed:
        say(f"{len(failed)} requests failed; the first: {failed[0].error}")
    if not all(one.counted for one in done.outcomes if not one.error):
        say("note: the server sends no usage: each event with text counts as one token, and prompts as none")


def _about(load: Load, dataset: Dataset, saving: Saving, done: Run) -> dict[str, Any]:
    return {
        "date": time.strftime("%Y%m%d-%H%M%S"),
        "endpoint_type": saving.backend,
        "backend": saving.backend,
        "label": saving.label or None,
        "model_id": done.model,
        "tokenizer_id": None,
        "num_prompts": dataset.num_prompts,
        **saving.metadata,
        "request_rate": "inf" if math.isinf(load.rate) else load.rate,
        "burstiness": load.burstiness,
        "max_concurrency": load.max_concurrency,
        "interrupted": done.interrupted,
    }


def _file_name(load: Load, saving: Saving, model: str) -> str:
    together = f"-concurrency{load.max_concurrency}" if load.max_concurrency else ""
    rate = "inf" if math.isinf(load.rate) else f"{load.rate:g}"
    name = model.rsplit("/", 1)[-1]
    return f"{saving.label or saving.backend}-{rate}qps{together}-{name}-{time.strftime('%Y%m%d-%H%M%S')}.json"
