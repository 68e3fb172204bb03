"""`python -m training.evaluate` counts exact answers on held-out dialogues, from a server or the training model."""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from training.arguments import named_failures, number
from training.data.dialogues import HELD_OUT, Dialogue
from training.data.held_out import add_data_options, held_out_dialogues
from training.experiments.quality import score
from training.experiments.replay import Verdict, replay, served_model
from training.export.read import load_exported

ROOT = Path(__file__).parent.parent
MISTAKES_SHOWN = 10


def online(url: str, played: list[Dialogue], parallel: int, console: Console) -> dict[str, Any]:
    """Evaluates a server through HTTP, and prints its mistakes."""
    model = served_model(url)
    with Progress(console=console) as progress:
        bar = progress.add_task(f"{model} at {url}", total=len(played))
        verdicts = replay(url, model, played, parallel, lambda: progress.advance(bar))
    flat = [verdict for dialogue in verdicts for verdict in dialogue]
    asked = Counter(verdict.category for verdict in flat)
    exact = Counter(verdict.category for verdict in flat if verdict.exact)
    show_mistakes([verdict for verdict in flat if not verdict.exact], console)
    flawless = sum(all(verdict.exact for verdict in dialogue) for dialogue in verdicts)
    return {"through": "http", "model": model, **shares(asked, exact), "flawless_dialogues": flawless}


def offline(folder: Path, played: list[Dialogue]) -> dict[str, Any]:
    """Evaluates the training model in bf16, including FFN experts per token."""
    model, tokenizer = load_exported(folder)
    result = score(model, tokenizer, played)
    usage = [asdict(layer) for layer in result.usage]
    counted = shares(result.asked, result.exact)
    return {
        "through": "training model, bf16",
        "model": folder.name,
        **counted,
        "flawless_dialogues": result.flawless,
        "ffn_experts_per_token": usage,
    }


def shares(asked: Counter[str], exact: Counter[str]) -> dict[str, Any]:
    by_category = {kind: {"asked": n, "exact": exact[kind]} for kind, n in sorted(asked.items())}
    total = {"answers": asked.total(), "exact": exact.total(), "share": exact.total() / asked.total()}
    return {**total, "by_category": by_category}


def show_mistakes(mistakes: list[Verdict], console: Console) -> None:
    for verdict in mistakes[:MISTAKES_SHOWN]:
        console.print(f"{verdict.category}: expected {verdict.expected!r}, given {verdict.given!r}", markup=False)


def show(result: dict[str, Any], console: Console) -> None:
    table = Table("answers", "asked", "exact", "share")
    for kind, row in result["by_category"].items():
        table.add_row(kind, str(row["asked"]), str(row["exact"]), f"{row['exact'] / row['asked']:.1%}")
    table.add_row("all", str(result["answers"]), str(result["exact"]), f"{result['share']:.1%}")
    console.print(table)
    console.print(f"dialogues with every answer exact: {result['flawless_dialogues']} of {result['dialogues']}")
    for layer, usage in enumerate(result.get("ffn_experts_per_token", ())):
        console.print(f"layer {layer}: FFN experts per token {usage['mean']:.3f}, std {usage['std']:.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m training.evaluate", description=__doc__)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--dialogues", type=number(1), default=200)
    parser.add_argument("--seed", type=int, default=HELD_OUT + 1, help="one that training never uses")
    add_data_options(parser)
    parser.add_argument("--parallel", type=number(1), default=8, help="dialogues in flight")
    parser.add_argument("--offline", action="store_true", help="no server: the training model in bf16")
    parser.add_argument("--model", type=Path, default=ROOT / "models" / "caracal-tiny", help="for --offline")
    parser.add_argument("--out", type=Path, help="a JSON file for the result")
    arguments = parser.parse_args()
    console = Console()
    with named_failures(parser, ValueError):
        stream = held_out_dialogues(arguments.data, arguments.words)
    played = list(stream(arguments.seed, 0, arguments.dialogues))
    begun = time.perf_counter()
    if arguments.offline:
        torch.set_num_threads(1)
        with named_failures(parser, OSError, "--model"):
            result = offline(arguments.model, played)
    else:
        url = arguments.url.rstrip("/").removesuffix("/v1")
        with named_failures(parser, OSError, f"--url {url}"):
            result = online(url, played, arguments.parallel, console)
    result |= {"data": arguments.data, "words": arguments.words}
    result |= {"dialogues": len(played), "seed": arguments.seed, "seconds": round(time.perf_counter() - begun, 1)}
    result["date"] = datetime.now(UTC).date().isoformat()
    show(result, console)
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
