"""`python -m compat.run [CLIENT ...]`: exercises every client, or those named, and writes docs/compatibility.md.

With names, the other rows of the page are taken from build/compat/outcomes.json, of earlier runs.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import torch
from compat.declared import CLIENTS, REPO, Client
from compat.environments import BUILD, NotInstalled, command, version
from compat.features import SCORED, Servers
from compat.page import PAGE, Outcome, markdown
from compat.thinking_checkpoint import make_thinking_checkpoint
from support.cluster_harness import running_on
from support.hf_oracle import load_oracle, oracle_logits
from tokenizers import Tokenizer

from services.checkpoint.reader import Checkpoint

CLIENT_S = 1200
MODEL = REPO / "models" / "caracal-tiny"


def exercise(client: Client, servers: Servers) -> Outcome:
    """Installs a client and runs its module; what it prints besides the outcomes goes to a log in build/compat."""
    try:
        words = command(client)
    except NotInstalled as error:
        return Outcome(client, version(client), {}, str(error))
    folder = BUILD / f"{client.name}.run"  # its $HOME: no settings of this user's, and nothing left in them
    folder.mkdir(exist_ok=True)
    offline = {"LITELLM_LOCAL_MODEL_COST_MAP": "True"}  # else it looks for prices in the net for ten seconds
    environment = offline | {"PATH": os.environ["PATH"], "HOME": str(folder), "PYTHONPATH": str(REPO / "tests")}
    with (BUILD / f"{client.name}.log").open("w") as log:
        done = subprocess.run(
            [*words, json.dumps(asdict(servers))], env=environment, cwd=folder, stdout=subprocess.PIPE,
            stderr=log, text=True, timeout=CLIENT_S, check=False,
        )  # fmt: skip
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('["')]
    return Outcome(client, version(client), dict(lines))


@contextmanager
def serving(folder: Path) -> Iterator[Servers]:
    """Two clusters: the built-in model, whose fp32 scores are compared with transformers', and one that thinks."""
    thinker = make_thinking_checkpoint(folder / "tiny-thinker")
    answering = contextmanager(running_on)(MODEL, dtype="float32")
    thinking = contextmanager(running_on)(thinker)
    with answering as one, thinking as other:
        yield Servers(one.local.urls[0], MODEL.name, other.local.urls[0], thinker.name, str(MODEL))


def scores() -> tuple[float, ...]:
    """The log-likelihoods of `SCORED` by transformers, in nats."""
    checkpoint = Checkpoint.open(MODEL)
    oracle, tokenizer = load_oracle(checkpoint, torch.float32), Tokenizer.from_file(str(MODEL / "tokenizer.json"))
    found = []
    for context, continuation in SCORED:
        ids = tokenizer.encode(context + continuation, add_special_tokens=False).ids
        first = len(tokenizer.encode(context, add_special_tokens=False).ids)
        logprobs_TV = torch.log_softmax(oracle_logits(oracle, ids), -1)
        found.append(sum(float(logprobs_TV[place - 1, ids[place]]) for place in range(first, len(ids))))
    return tuple(found)


def main(names: list[str]) -> None:
    chosen = [client for client in CLIENTS if not names or client.name in names]
    if unknown := set(names) - {client.name for client in CLIENTS}:
        sys.exit(f"no such client: {', '.join(sorted(unknown))}; there are {', '.join(c.name for c in CLIENTS)}")
    BUILD.mkdir(parents=True, exist_ok=True)
    kept = BUILD / "outcomes.json"
    saved: dict[str, list[object]] = json.loads(kept.read_text()) if kept.exists() else {}
    with tempfile.TemporaryDirectory() as folder, serving(Path(folder)) as running:
        servers = replace(running, scores=scores())
        for client in chosen:
            outcome = exercise(client, servers)
            saved[client.name] = [outcome.version, outcome.failures, outcome.not_installed]
            failed = [feature for feature in client.features() if outcome.failures.get(feature, "no outcome")]
            print(f"{client.title} {outcome.version}: {outcome.not_installed or failed or 'works'}", flush=True)
            kept.write_text(json.dumps(saved))
    missing = [client.name for client in CLIENTS if client.name not in saved]
    if missing:
        sys.exit(f"{PAGE} is not written: it lacks {', '.join(missing)}")
    PAGE.write_text(markdown([Outcome(client, *saved[client.name]) for client in CLIENTS]))  # type: ignore[arg-type]


if __name__ == "__main__":
    main(sys.argv[1:])
