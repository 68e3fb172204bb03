"""Flips single bits in a tiny training run, and counts which flips the watch finds, after how many steps.

For each kind of place, interval and mode (one flip, or one in every step from then on, as a core that has gone bad
makes) several trials: flipped are a random bit of a random tensor of the kind, in a random step. A trial ends with the
alarm, or one interval after the first flip. Beside it a clean run, which must not raise an alarm, and what the watch
costs: seconds of a step without it, of one between two looks, and of one with them.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random

import torch
from matplotlib import pyplot as plt
from rich.console import Console

from training.determinism.faults import AT_REST, COMPUTED, Faults
from training.determinism.mode import make_deterministic
from training.determinism.watch import CorruptionFound, Watch
from training.execution import Execution
from training.experiments.page import parser_of, table, write_result, write_section
from training.experiments.runner import Case, Json, Results, run_cases
from training.freed_memory import keep_freed_memory
from training.model.config import ModelConfig
from training.progress import progress_bar
from training.recipe import Recipe, TrunkRecipe
from training.trunk import Trunk

plt.switch_backend("Agg")
NAME = "corruption"
MODES = ("one flip", "in every step")
SIZES = {"vocab_size": 320, "hidden_size": 16, "num_layers": 1, "ffn_hidden_size": 16, "expert_ffn_hidden_size": 8}
KINDS = (*COMPUTED, *AT_REST)


@dataclass(frozen=True)
class Given:
    """How many trials of each kind, steps of the clean run, rounds of the cost, and the share of experts."""

    trials: int
    clean: int
    rounds: int
    share: float
    seed: int
    layers: int
    intervals: tuple[int, ...]


def tiny(seed: int) -> Recipe:
    trunk = TrunkRecipe(tokenizer_dialogues=5, batch_dialogues=4, groups=4, warmup=2, bfloat16=False)
    return Recipe(seed=seed, model=ModelConfig(**SIZES), trunk=trunk, mtp=None, determinism=True)


def step_of(trunk: Trunk) -> None:
    trunk.begin()
    trunk.advance()
    trunk.remember()


def one_trial(folder: Path, kind: str, interval: int, mode: str, given: Given, number: int) -> Json:
    """Returns what was hit, how many steps after the first hit the alarm came (None: it did not), and what it changed.

    A flip may change nothing: in a token whose output nobody reads, for instance.
    """
    first = Random(f"{given.seed} {kind} {interval} {number}").randrange(1, interval + 1)
    last = first if mode == MODES[0] else first + interval
    faults = Faults(kind, first, last, number, among=8)  # four padded groups, two attentions and dense MLPs
    with tempfile.TemporaryDirectory(dir=folder) as place:
        trunk = Trunk(Path(place), tiny(given.seed), Execution(watch=Watch(interval, given.share, faults)))
        try:
            for _ in range(first + interval + 1):
                step_of(trunk)
        except CorruptionFound as error:
            return {"hits": faults.hits, "after": trunk.step - first, "alarm": str(error), "effect": True}
        undisturbed = Trunk(Path(place) / "undisturbed", tiny(given.seed))
        while undisturbed.step < trunk.step:
            undisturbed.advance()
    weights = zip(trunk.model.parameters(), undisturbed.model.parameters(), strict=True)
    return {"hits": faults.hits, "after": None, "alarm": None, "effect": not all(torch.equal(a, b) for a, b in weights)}


def kind_case(kind: str, interval: int, mode: str, given: Given) -> Case:
    def work(folder: Path, console: Console, title: str) -> Json:
        return {"trials": [one_trial(folder, kind, interval, mode, given, n) for n in range(given.trials)]}

    return Case(f"{kind} {interval} {mode}", given.seed, {"kind": kind, **asdict(given)}, work)


def clean_case(given: Given) -> Case:
    """Everything compared in every step; an alarm ends the experiment."""

    def work(folder: Path, console: Console, title: str) -> Json:
        watch = Watch(1, 1.0)
        trunk = Trunk(folder / "run", tiny(given.seed), Execution(watch=watch))
        for _ in range(given.clean):
            step_of(trunk)
        return {"steps": given.clean, "compared": watch.compared}

    return Case("clean", given.seed, asdict(given), work)


def cost_case(given: Given) -> Case:
    """Times steps of the built-in model, the three kinds by turns on the same batch, so that a busy moment hits all."""

    def work(folder: Path, console: Console, title: str) -> Json:
        watch = Watch(0, given.share)
        model = ModelConfig(num_layers=given.layers)
        recipe = Recipe(seed=given.seed, model=model, trunk=TrunkRecipe(tokenizer_dialogues=500), determinism=True)
        trunk = Trunk(folder / "run", recipe, Execution(watch=watch))
        found: dict[str, list[float]] = {"off": [], "between": [], "looking": []}
        for number in range(1 + 3 * given.rounds):
            kind = ("off", "between", "looking")[number % 3]
            watch.interval, trunk.step = {"off": 0, "between": 1000, "looking": 1}[kind], 1
            trunk.remember()  # as behind a step of this kind; what one of another kind left there is no more
            begun = time.perf_counter()
            trunk.begin()
            trunk.advance()
            trunk.remember()
            found[kind].append(time.perf_counter() - begun)
        del found["off"][0]  # it warms up
        return {"seconds": {kind: statistics.median(values) for kind, values in found.items()}}

    return Case("cost", given.seed, asdict(given), work)


def coverage(results: Results, given: Given) -> list[Json]:
    rows = []
    for kind in KINDS:
        for mode in MODES:
            for interval in given.intervals:
                trials = results[f"{kind} {interval} {mode}"][given.seed]["trials"]
                hit = [trial for trial in trials if trial["hits"] and trial["effect"]]
                after = [trial["after"] for trial in hit if trial["after"] is not None]
                rows.append({"kind": kind, "mode": mode, "interval": interval, "hit": len(hit), "found": len(after),
                             "most_steps": max(after, default=None)})  # fmt: skip
    return rows


def in_words(rows: list[Json], clean: Json, seconds: Json) -> str:
    intervals = sorted({row["interval"] for row in rows})
    heads = ["bits flipped in", *(f"{mode}, interval {n}" for mode in MODES for n in intervals)]
    lines = []
    for kind in KINDS:
        mine = [row for row in rows if row["kind"] == kind]
        cells = [f"{row['found']}/{row['hit']}" + (f" (≤ {row['most_steps']})" if row["found"] else "") for row in mine]
        lines.append([kind, *cells])
    compared = ", ".join(f"{count} × {kind}" for kind, count in clean["compared"].items())
    costs = table(
        ("interval", "cost of the watch"),
        [(f"{n}", f"{cost(seconds, n):+.1%}") for n in (1, 4, 16, 64, 256)],
    )
    return f"{table(heads, lines)}\n\nClean run: {clean['steps']} steps, no alarm; compared: {compared}.\n\n{costs}"


def cost(seconds: Json, interval: int) -> float:
    """Returns the watch's share of a step without it, on average over an interval."""
    mean = (seconds["looking"] + (interval - 1) * seconds["between"]) / interval
    return float(mean / seconds["off"] - 1)


def draw(rows: list[Json], seconds: Json, out: Path) -> None:
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained", width_ratios=(3, 2))
    intervals = sorted({row["interval"] for row in rows})
    for offset, (mode, interval) in enumerate((mode, n) for mode in MODES for n in intervals):
        mine = [row for row in rows if (row["mode"], row["interval"]) == (mode, interval)]
        places = [place + offset * 0.13 for place in range(len(mine))]
        shares = [row["found"] / max(1, row["hit"]) for row in mine]
        left.barh(places, shares, 0.12, label=f"{mode}, interval {interval}")
    left.set_yticks([place + 0.3 for place in range(len(KINDS))], KINDS)
    left.set(xlabel="share of trials in which the flip was found")
    left.legend(fontsize="x-small")
    steps = [1, 2, 4, 8, 16, 32, 64, 128, 256]
    right.plot(steps, [100 * cost(seconds, n) for n in steps], "o-")
    right.set(xscale="log", xlabel="interval, steps", ylabel="cost, % of a step")
    figure.savefig(out, dpi=110)
    plt.close(figure)


def main() -> None:
    parser = parser_of(NAME, __doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--scale", type=int, default=1, choices=range(1, 65), metavar="N", help="N times as much")
    parser.add_argument("--trials", type=int, default=4, help="of each kind, interval and mode, at scale 1")
    parser.add_argument("--clean", type=int, default=200, help="steps of the clean run, at scale 1")
    parser.add_argument("--rounds", type=int, default=5, help="of the cost's three kinds of steps")
    parser.add_argument("--intervals", type=int, nargs="+", default=[1, 4, 16], help="between two looks, steps")
    parser.add_argument("--share", type=float, default=1.0, help="of the experts that are looked at")
    parser.add_argument(
        "--layers", type=int, default=ModelConfig.num_layers, help="of the model whose cost is measured"
    )
    parsed, console = parser.parse_args(), Console()
    make_deterministic()
    keep_freed_memory()
    given = given_of(parsed)
    cases = [*(kind_case(k, n, m, given) for k in KINDS for m in MODES for n in given.intervals), clean_case(given)]
    results = run_all([*cases, cost_case(given)], parsed.run, console)
    rows, clean = coverage(results, given), results["clean"][given.seed]
    seconds = results["cost"][given.seed]["seconds"]
    write_result(parsed.docs, NAME, {"size": asdict(given), "coverage": rows, "clean": clean, "seconds": seconds})
    draw(rows, seconds, parsed.docs / f"{NAME}.png")
    write_section(parsed.docs, NAME, in_words(rows, clean, seconds))
    console.print(in_words(rows, clean, seconds), soft_wrap=True)


def given_of(parsed: argparse.Namespace) -> Given:
    trials, clean = parsed.trials * parsed.scale, parsed.clean * parsed.scale
    return Given(trials, clean, parsed.rounds, parsed.share, parsed.seed, parsed.layers, tuple(parsed.intervals))


def run_all(cases: list[Case], folder: Path, console: Console) -> Results:
    results = Results()
    with progress_bar(console, NAME, 0, len(cases)) as update:
        for number, case in enumerate(cases):
            update(number, case.variant, None)
            results |= run_cases([case], folder, console)
        update(len(cases), "done", None)
    return results


if __name__ == "__main__":
    main()
