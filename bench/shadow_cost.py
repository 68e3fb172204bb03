"""`python -m bench.shadow_cost [--smoke]`: what computing calls to expert workers again costs the streams.

Two clusters of this machine with two expert workers each, of which both have every expert, take turns: one computes the
usual share of the calls again, the other none.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from bench import arguments
from bench.checkpoints import prepare
from bench.contenders import median, over_http, prompts, take_turns
from bench.processes import cluster
from bench.report import machine

CONFIG, SMOKE = "bench-90m", "bench-tiny"
STREAMS, ROUNDS = (8, 32), 9
GOAL = 0.02  # of the throughput
OUT = Path(__file__).parent / "results" / "shadow-cost.json"


def compare(config: str, streams: tuple[int, ...], rounds: int) -> dict[str, Any]:
    """Tokens per second of both, by the number of streams, and the share that is lost."""
    checkpoint, directory = prepare(config), Path(tempfile.mkdtemp(prefix="caracal-shadow-"))
    vocabulary, found = checkpoint.config.vocab_size, {}
    with (
        cluster(checkpoint.path, directory / "with", experts=2) as with_shadow,
        cluster(checkpoint.path, directory / "without", experts=2, CARACAL_SHADOW_SHARE="0") as without,
    ):
        contenders = {"with": over_http(with_shadow), "without": over_http(without)}
        for count in streams:
            batch = prompts(count, vocabulary)
            take_turns(contenders, batch, 1)
            speeds = take_turns(contenders, batch, rounds)
            medians = {name: median(each).whole for name, each in speeds.items()}
            found[str(count)] = {
                "tokens_per_s": {name: round(value, 1) for name, value in medians.items()},
                "turns": {name: [round(one.whole, 1) for one in each] for name, each in speeds.items()},
                "lost": round(1 - medians["with"] / medians["without"], 4),
            }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.shadow_cost", description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="one turn on a tiny model, to see that it runs")
    parser.add_argument("--rounds", type=arguments.number(1, 100), default=ROUNDS, help="interleaved turns")
    parser.add_argument("--out", type=arguments.file, default=OUT, help="a JSON file for the figures")
    args = parser.parse_args()
    streams = compare(SMOKE, (4,), 1) if args.smoke else compare(CONFIG, STREAMS, args.rounds)
    result = {"machine": machine(), "goal": GOAL, "streams": streams}
    print(json.dumps(result, indent=1))
    args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
