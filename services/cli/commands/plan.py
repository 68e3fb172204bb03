"""`caracal plan`: how many workers a model needs, and what to buy for a traffic and an SLO."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Annotated

import typer

from services.cli.options import AsJson, finite, usage_error

Positive = {"min": 0.0, "callback": finite}


def gpu_names(incomplete: str) -> list[str]:
    """Known devices, for the shell."""
    from services.cli.planning.profiles import names

    return [name for name in names("devices") if name.startswith(incomplete)]


def plan(
    model: Annotated[
        str, typer.Argument(help="A checkpoint directory, its config.json, flash-chat, flash-lite; with --gpu also others.")
    ] = "flash-chat",
    memory: Annotated[
        float, typer.Option(help="GB that one expert worker has for experts.", min=0.001, callback=finite)
    ] = 80.0,
    attention_memory: Annotated[
        float, typer.Option(help="GB that one attention worker has.", min=0.001, callback=finite)
    ] = 80.0,
    gpu: Annotated[
        str, typer.Option(help="What to plan for: h800, h200, b200, 910c, cpu, …; without it only memory is planned.",
                          autocompletion=gpu_names)
    ] = "",
    gpus: Annotated[int, typer.Option(help="How many there are; 0: as many as --rate takes.", min=0, max=8192)] = 0,
    budget: Annotated[float, typer.Option(help="USD an hour instead of a number.", **Positive)] = 0.0,
    link: Annotated[str, typer.Option(help="Between them: infiniband, efa, nvlink, nvl72, ub, 100gbe, loopback.")] = "",
    price: Annotated[float, typer.Option(help="USD an hour of one; 0: the profile's.", **Positive)] = 0.0,
    weights: Annotated[str, typer.Option(help="fp8, bf16 or fp32.")] = "fp8",
    kv: Annotated[str, typer.Option(help="Dtype of the KV cache.")] = "bf16",
    replicas: Annotated[int, typer.Option(help="Of each expert, in separate pools.", min=1, max=8)] = 1,
    unevenness: Annotated[
        float, typer.Option(help="Deviation of experts' loads over their mean, beyond what the fitted factors have in them.",
                            min=0, max=10, callback=finite)
    ] = 0.0,
    rate: Annotated[float, typer.Option(help="Requests a second; 0: the most that fit.", **Positive)] = 0.0,
    prompt: Annotated[float, typer.Option(help="Tokens of a prompt, on average.", **Positive)] = 4000.0,
    answer: Annotated[float, typer.Option(help="Tokens of an answer, on average.", **Positive)] = 1000.0,
    cached: Annotated[float, typer.Option(help="Share of prompts' tokens that are cached.", min=0, max=1, callback=finite)] = 0.0,
    spread: Annotated[float, typer.Option(help="Deviation of lengths over their mean.", min=0, max=10, callback=finite)] = 1.0,
    ttft: Annotated[float | None, typer.Option(help="SLO: seconds to the first token, p99.", min=0.001, callback=finite)] = None,
    itl: Annotated[float | None, typer.Option(help="SLO: ms between two tokens.", min=0.001, callback=finite)] = None,
    plot: Annotated[Path | None, typer.Option(help="Write the frontier there, as SVG.", dir_okay=False)] = None,
    values: Annotated[Path | None, typer.Option(help="Write Helm values there.", dir_okay=False)] = None,
    profile: Annotated[Path | None, typer.Option(help="Devices and links measured by --calibrate.", exists=True, dir_okay=False)] = None,
    calibrate: Annotated[
        Path | None, typer.Option(help="Measure this machine for about two minutes, and write its profile there.", dir_okay=False)
    ] = None,
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Compute how many workers a model needs; with --gpu what to buy, and whether separate pools pay. Nothing is loaded."""
    from services.cli.planning.errors import BadPlan
    from services.planner.traffic import Slo, Traffic

    if calibrate is not None:
        _calibrate(calibrate)
        return
    if not gpu and (gpus or budget or rate or plot or values or profile):
        usage_error("--gpu names what to plan for: it goes with --gpus, --budget, --rate, --plot, --values and --profile")
    try:
        if not gpu:
            from services.cli.plan import load_sizes, show, show_json

            (show_json if as_json else show)(load_sizes(model), memory, attention_memory)
            return
        from services.cli.planning.question import Question

        question = Question(
            model=model, gpu=gpu, gpus=gpus, budget_h=budget, link=link, price_h=price, weights=weights, kv=kv, replicas=replicas, unevenness=unevenness,
            traffic=Traffic(rate=rate, prompt=prompt, answer=answer, cached=cached, spread=spread),
            slo=Slo(ttft_s=ttft or math.inf, itl_s=itl / 1e3 if itl else math.inf), profile=profile,
        )  # fmt: skip
        _ask(question, plot, values, as_json)
    except BadPlan as error:
        usage_error(str(error))


def _calibrate(path: Path) -> None:
    """Measures with what `make bench` measures with. Needs a checkout of the repository."""
    sys.path.append(str(Path(__file__).resolve().parents[3]))  # bench/ is not installed
    try:
        from bench.planner.calibrate import calibrate as measure
    except ModuleNotFoundError as error:
        usage_error(f"--calibrate needs a checkout of the repository: {error}")
    if not path.parent.is_dir():
        usage_error(f"{path}: no such folder")
    measure(path)


def _ask(question: object, plot: Path | None, values: Path | None, as_json: bool) -> None:
    from services.cli.planning import page
    from services.cli.planning.plotting import frontier_svg
    from services.cli.planning.question import Question, ask
    from services.cli.planning.values import values as as_values

    assert isinstance(question, Question)
    found = ask(question)
    for path, text in ((plot, frontier_svg), (values, as_values)):
        if path is not None:
            try:
                path.write_text(text(found), encoding="utf-8")
            except OSError as error:
                usage_error(f"{path}: {error.strerror}")
    (page.show_json if as_json else page.show)(found)
