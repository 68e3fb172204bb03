"""`python -m bench.long_context` measures long prompts on a cluster of this machine; writes JSON and a Markdown table.

Running streams while prompts of 30000 tokens arrive, with chunks of a number of tokens and by cost; then one such
prompt against transformers, and the memory it takes.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from bench.checkpoints import console, prepare
from bench.long_context import against_transformers, streams
from bench.long_context.streams import NO_BOUND_MS, Sizes
from bench.main import RESULTS
from bench.processes import cluster
from bench.report import markdown, write
from bench.row import Row

CONFIG = "bench-long"
SMOKE = Sizes(streams=2, context=50, prompt=700, prompts=1, quiet_s=0.3)


def run(sizes: Sizes, rounds: int) -> list[Row]:
    directory = Path(tempfile.mkdtemp(prefix="caracal-bench-"))
    console.print(f"logs in {directory}")
    checkpoint = prepare(CONFIG)
    console.print(f"streams beside prompts of {sizes.prompt} tokens")
    with (
        cluster(checkpoint.path, directory / "tokens", CARACAL_MAX_ITL_MS=str(NO_BOUND_MS)) as by_tokens,
        cluster(checkpoint.path, directory / "cost") as by_cost,
    ):
        clusters = {"of 256 tokens": by_tokens, "by cost": by_cost}
        rows = streams.compare(clusters, sizes, checkpoint.config.vocab_size, rounds)
    console.print("the answer to a long prompt, and its memory")
    exact = prepare(CONFIG, "float32")
    prompt = against_transformers.prompt_of(sizes.prompt, exact.config.vocab_size)
    with (
        cluster(exact.path, directory / "few", CARACAL_KV_PAGES=str(against_transformers.FEW_PAGES)) as few,
        cluster(exact.path, directory / "whole") as whole,
    ):
        ours, more = against_transformers.rows_of_cluster(few, whole, exact.path, prompt)
    theirs = against_transformers.ask_transformers(exact.path, prompt, against_transformers.NEW_TOKENS)
    return rows + more + against_transformers.rows_of_comparison(ours, theirs, len(prompt))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.long_context", description=__doc__)
    parser.add_argument("--rounds", type=int, default=2, help="interleaved rounds of the streams")
    parser.add_argument("--out", type=Path, default=RESULTS, help="where long-context.json and long-context.md go")
    parser.add_argument("--smoke", action="store_true", help="every part once and small: nothing is written")
    given = parser.parse_args()
    rows = run(SMOKE, 1) if given.smoke else run(Sizes(), given.rounds)
    if not given.smoke:
        write(rows, given.out, "long-context")
    print(markdown(rows))
    for row in rows:
        if row.detail:
            print(f"{row.what}: {row.detail}")


if __name__ == "__main__":
    main()
