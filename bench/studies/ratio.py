"""`python -m bench.studies.ratio`: attention to expert workers against the length of contexts.

32 devices, split between the two roles; every place of the attention workers gets a request at once, with a prompt
of the context's length and an answer of 256 tokens. What is shown is new tokens per second until all answers are there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from bench.studies.large import SKEW, deployment
from bench.studies.progress import progress
from bench.studies.study import Options, Panel, study
from services.simulator.deployment import Deployment
from services.simulator.generation import Generation
from services.simulator.routing import Routing
from services.simulator.simulation import Scenario, play

DEVICES = 32
ATTENTION = (4, 8, 12, 16, 20, 24)
CONTEXTS = (1024, 4096, 16384, 65536)
ANSWER, QUEUE_S = 256, 3600.0


def burst(shaped: Deployment, context: int) -> list[Generation]:
    """As many requests as fit the pages and the places of all attention workers."""
    room = shaped.pages * shaped.page_size // (context + ANSWER + shaped.page_size)
    count = shaped.attention * min(shaped.max_running, room)
    return [Generation(number, 0.0, context, ANSWER, f"caller-{number}") for number in range(count)]


def tokens_s(shaped: Deployment, context: int, seed: int) -> dict[str, float]:
    requests = burst(shaped, context)

    def arrivals(_: int) -> Iterator[Generation]:
        yield from requests

    played = play(Scenario(deployment=shaped, arrivals=arrivals, seconds=QUEUE_S, routing=Routing(exponent=SKEW)), seed)
    done = [g for g in played.outcomes.generations if g.end == "finished"]
    last = max(g.last for g in done)
    return {
        "tokens_s": sum(g.tokens for g in done) / last,
        "requests": len(requests),
        "finished": len(done),
        "itl_p50_ms": 1e3 * played.outcomes.itl.percentile(0.5),
        "itl_p99_ms": 1e3 * played.outcomes.itl.percentile(0.99),
    }


def run(options: Options) -> tuple[dict[str, Any], Sequence[Panel]]:
    attention, contexts = ((4,), (1024,)) if options.smoke else (ATTENTION, CONTEXTS)
    most_running = 2 if options.smoke else 64
    rows: list[dict[str, float]] = []
    with progress(len(attention) * len(contexts)) as show:
        for context in contexts:
            for count in attention:
                shaped = deployment(count, DEVICES - count, queue_timeout_s=QUEUE_S, max_running=most_running)
                found = tokens_s(shaped, context, options.seed)
                rows.append({"context": context, "attention": count, "experts": DEVICES - count} | found)
                show(len(rows))
    lines = {
        f"{context} tokens": [
            (row["attention"], row["tokens_s"] / DEVICES) for row in rows if row["context"] == context
        ]
        for context in contexts
    }
    best = {
        str(context): max((row for row in rows if row["context"] == context), key=lambda row: row["tokens_s"])
        for context in contexts
    }
    panel = Panel(
        title=f"{DEVICES} devices, prompts included",
        across="attention workers of them",
        up="new tokens/s per device",
        lines=lines,
    )
    return {"best": best, "rows": rows}, [panel]


if __name__ == "__main__":
    study("ratio", __doc__, run)
