"""`python -m training.curriculum` makes the built-in model anew: stages of data, roll-outs, drafts, evaluation.

One command from nothing to the shipped files. Run it again to resume: what is done is read, and nothing is done twice.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from training.agentic.__main__ import copy_model
from training.agentic.__main__ import publish as publish_agentic
from training.agentic.bench import add_options, show
from training.agentic.casting import cast
from training.agentic.rounds import Rounds
from training.arguments import named_failures, number
from training.curriculum.built_in import AGENTIC, MTP, curriculum, recipe_of
from training.curriculum.plot import draw_stages
from training.data.corpus import NOVELTIES, Source
from training.data.dialogues import HELD_OUT
from training.data.held_out import held_out_dialogues
from training.determinism.mode import make_deterministic
from training.evaluate import offline
from training.execution import Execution
from training.experiments.plots import draw_usage
from training.export.read import digest, read_tensors
from training.export.write import export
from training.freed_memory import keep_freed_memory
from training.mtp.acceptance import measure
from training.mtp.stage import Mtp
from training.recipe import Recipe
from training.stability.controller import Usage
from training.trunk import Trunk

ROOT = Path(__file__).parents[2]


def options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m training.curriculum", description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, default=ROOT / "training" / "runs" / "curriculum", help="all that is kept")
    parser.add_argument("--out", type=Path, default=ROOT / "models" / "caracal-tiny", help="the model that is replaced")
    parser.add_argument("--docs", type=Path, default=ROOT / "docs" / "training", help="where results and plots go")
    parser.add_argument("--seed", type=int, default=Recipe.seed)
    parser.add_argument(
        "--steps", type=number(1), help="of the trunk; this and the following: fewer only to try it out"
    )
    parser.add_argument("--rounds", type=number(0), default=AGENTIC.rounds, help="of roll-outs")
    parser.add_argument("--train-tasks", type=number(1), default=AGENTIC.tasks, help="of a round of roll-outs")
    parser.add_argument("--samples", type=number(1), default=AGENTIC.samples, help="roll-outs of such a task")
    parser.add_argument("--agentic-steps", type=number(1), default=AGENTIC.steps, help="of a round")
    parser.add_argument("--mtp-steps", type=number(0), default=MTP.steps, help="of the drafts")
    parser.add_argument("--dialogues", type=number(1), default=200, help="held-out ones of each evaluation")
    threads = "padded groups of a batch that are computed at once; they change no bit"
    parser.add_argument("--threads", type=number(1), default=torch.get_num_threads(), help=threads)
    add_options(parser, tasks=120)
    return parser


def recipe(arguments: argparse.Namespace) -> Recipe:
    stages = curriculum()
    if arguments.steps is not None:
        stages = stages.shortened(arguments.steps)
    agentic = replace(
        AGENTIC,
        rounds=arguments.rounds,
        tasks=arguments.train_tasks,
        samples=arguments.samples,
        steps=arguments.agentic_steps,
    )
    return recipe_of(arguments.seed, stages, agentic, replace(MTP, steps=arguments.mtp_steps))


def train(arguments: argparse.Namespace, console: Console) -> dict[str, Any]:
    """Makes the model in `--out`; returns the benchmark's results and the rounds' counts."""
    made, run = recipe(arguments), arguments.run
    assert made.curriculum is not None
    assert made.agentic is not None
    assert made.mtp is not None
    trunk = Trunk(run / "trunk", made, Execution(threads=arguments.threads))
    trunk.run(console)
    export(trunk.model, trunk.tokenizer, run / "trunk-model")
    source = made.curriculum.stages[-1].source
    agentic = run / "agentic", run / "trunk-model"
    rounds = Rounds(*agentic, source, made.seed, made.agentic, cast({}), arguments.threads)
    measured = argparse.Namespace(**vars(arguments) | {"seed": HELD_OUT + 1})
    found = rounds.run(measured, arguments.parallel, console)
    copy_model(found.pop("model"), arguments.out)
    drafts = Mtp(run / "mtp", arguments.out, made.seed, made.mtp, Source(), arguments.threads)
    drafts.run(console)
    drafts.publish()
    return found


def evaluate(arguments: argparse.Namespace) -> dict[str, Any]:
    """Returns exactness on unseen dialogues, unseen words and unseen forms, and how many drafts are accepted."""
    results: dict[str, Any] = {"weights": digest(read_tensors(arguments.out)), "exact": {}}
    for words in NOVELTIES:
        played = list(held_out_dialogues("corpus", words)(HELD_OUT + 1, 0, arguments.dialogues))
        results["exact"][words] = offline(arguments.out, played)
    seen = list(held_out_dialogues("corpus", "seen")(HELD_OUT + 1, 0, arguments.dialogues))
    results["drafts"] = measure(arguments.out, seen, HELD_OUT + 1, 0.0)
    return results


def publish(arguments: argparse.Namespace, found: dict[str, Any], results: dict[str, Any]) -> None:
    """Writes everything that the docs show."""
    docs = arguments.docs
    docs.mkdir(parents=True, exist_ok=True)
    log = docs / "curriculum-log.jsonl"
    shutil.copyfile(arguments.run / "trunk" / "log.jsonl", log)
    draw_stages(log, recipe(arguments), docs / "curriculum.png")
    usage = [Usage(**layer) for layer in results["exact"]["seen"]["ffn_experts_per_token"]]
    draw_usage(usage, docs / "curriculum-ffn-experts.png")
    (docs / "curriculum.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    publish_agentic(found, docs / "agentic.json")


def main() -> None:
    parser = options()
    arguments = parser.parse_args()
    make_deterministic()
    keep_freed_memory()
    console, begun = Console(), time.perf_counter()
    with named_failures(parser, ValueError):
        found = train(arguments, console)
    results = evaluate(arguments)
    results["seconds_of_this_call"] = round(time.perf_counter() - begun, 1)
    results["date"] = datetime.now(UTC).date().isoformat()
    publish(arguments, found, results)
    show(found["results"], console)
    for words, result in results["exact"].items():
        console.print(f"{words}: {result['share']:.1%} of {result['answers']} answers exact")
    accepted = results["drafts"]["by_draft_length"]["1"]["share"]
    console.print(f"drafts accepted, greedy: {accepted:.1%}\nexported to {arguments.out}, results in {arguments.docs}")


if __name__ == "__main__":
    main()
