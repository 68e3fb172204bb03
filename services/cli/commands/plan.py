"""`caracal plan`: how many workers a model needs, and what to buy for a traffic and an SLO."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from services.cli.options import AsJson, fail, usage_error
from services.cli.planning import options as given

if TYPE_CHECKING:
    from services.cli.planning.question import Question


def plan(
    model: given.Model = None,
    memory: given.Memory = 80.0,
    attention_memory: given.AttentionMemory = 80.0,
    gpu: given.Gpu = "",
    gpus: given.Gpus = 0,
    budget: given.Budget = 0.0,
    link: given.LinkName = "",
    price: given.Price = 0.0,
    weights: given.Weights = "fp8",
    kv: given.KvDtype = "bf16",
    replicas: given.Replicas = 1,
    unevenness: given.Unevenness = 0.0,
    acceptance: given.Acceptance = 0.8,
    rate: given.Rate = 0.0,
    prompt: given.Prompt = 4000.0,
    answer: given.AnswerTokens = 1000.0,
    cached: given.Cached = 0.0,
    spread: given.Spread = 1.0,
    ttft: given.Ttft = 5.0,
    itl: given.Itl = 50.0,
    plot: given.Plot = None,
    values: given.Values = None,
    profile: given.Profile = None,
    calibrate: given.Calibrate = None,
    as_json: AsJson = False,
) -> None:
    """Compute how many workers a model needs; with --gpu what to buy, and whether separate pools pay.

    Nothing is loaded. Everything but memory is a prediction, and says how sure it is.
    """
    from services.cli.planning.errors import BadPlan
    from services.planner.traffic import Slo, Traffic

    if calibrate is not None:
        _calibrate(calibrate)
        return
    if model is None:
        usage_error("missing argument MODEL")
    if not gpu and (gpus or budget or rate or plot or values or profile):
        usage_error(
            "--gpu names what to plan for: it goes with --gpus, --budget, --rate, --plot, --values and --profile"
        )
    try:
        if not gpu:
            _memory(model, memory, attention_memory, as_json)
            return
        from services.cli.planning.question import Question

        traffic = Traffic(rate=rate, prompt=prompt, answer=answer, cached=cached, spread=spread)
        slo = Slo(ttft_s=ttft, itl_s=itl / 1e3)
        asked = Question(
            model=model, gpu=gpu, gpus=gpus, budget_h=budget, link=link, price_h=price, weights=weights, kv=kv,
            replicas=replicas, unevenness=unevenness, acceptance=acceptance, traffic=traffic, slo=slo, profile=profile,
        )  # fmt: skip
        _ask(asked, plot, values, as_json)
    except BadPlan as error:
        usage_error(str(error))


def _memory(model: str, memory: float, attention_memory: float, as_json: bool) -> None:
    from services.cli.plan import load_sizes, show, show_json

    (show_json if as_json else show)(load_sizes(model), memory, attention_memory)


def _calibrate(path: Path) -> None:
    """Measures with what `make bench` measures with. Needs a checkout of the repository."""
    if not path.parent.is_dir():
        usage_error(f"--calibrate {path}: no such folder")
    sys.path.append(str(Path(__file__).resolve().parents[3]))  # bench/ is not installed
    try:
        from bench.planner.calibrate import calibrate as measure
    except ModuleNotFoundError as error:
        usage_error(f"--calibrate needs a checkout of the repository: {error}")
    measure(path)


def _ask(question: Question, plot: Path | None, values: Path | None, as_json: bool) -> None:
    from services.cli.planning import page
    from services.cli.planning.plotting import frontier_svg
    from services.cli.planning.question import ask
    from services.cli.planning.values import values as as_values

    found = ask(question)
    for option, path, text in (("--plot", plot, frontier_svg), ("--values", values, as_values)):
        if path is not None:
            try:
                path.write_text(text(found), encoding="utf-8")
            except OSError as error:
                fail(f"{option} {path}: {error.strerror}")
    (page.show_json if as_json else page.show)(found)
