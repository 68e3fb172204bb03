"""The options of `caracal plan`, one type each."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from services.cli.options import finite


def gpu_names(incomplete: str) -> list[str]:
    """Known devices, for the shell."""
    from services.cli.planning.profiles import names

    return [name for name in names("devices") if name.startswith(incomplete)]


def number(help: str, least: float = 0.0, most: float | None = None) -> Any:
    """A finite number of at least and at most so much."""
    return typer.Option(help=help, min=least, max=most, callback=finite)


def written(help: str) -> Any:
    """A file that is written."""
    return typer.Option(help=help, dir_okay=False)


MODEL_HELP = "A checkpoint directory, its config.json, flash-chat, flash-lite; with --gpu others, too."
GPU_HELP = "What to plan for: h800, h200, b200, 910c, cpu, …; without it only memory is planned."
Model = Annotated[str | None, typer.Argument(help=MODEL_HELP)]
Memory = Annotated[float, number("GB that one expert worker has for experts.", 0.001)]
AttentionMemory = Annotated[float, number("GB that one attention worker has.", 0.001)]
Gpu = Annotated[str, typer.Option(help=GPU_HELP, autocompletion=gpu_names)]
Gpus = Annotated[
    int,
    typer.Option(help="How many there are; 0: as few as --rate takes, or as many as --budget buys.", min=0, max=8192),
]
Budget = Annotated[float, number("USD an hour, at most; with --rate the fewest that serve it.")]
LinkName = Annotated[str, typer.Option(help="Between them: infiniband, efa, nvlink, nvl72, ub, 100gbe, loopback.")]
Price = Annotated[float, number("USD an hour of one; 0: the profile's.")]
Weights = Annotated[str, typer.Option(help="fp8, bf16, fp32 or nvfp4.")]
KvDtype = Annotated[str, typer.Option(help="Dtype of the KV cache: bf16, fp8 or fp32.")]
Replicas = Annotated[int, typer.Option(help="Of each expert, in separate pools.", min=1, max=8)]
Unevenness = Annotated[
    float, number("Deviation of experts' loads over their mean, beyond what factors have in them.", 0, 10)
]
Acceptance = Annotated[float, number("Share of drafted tokens that are right.", 0, 1)]
Rate = Annotated[float, number("Requests a second; 0: the most that fit.")]
Prompt = Annotated[float, number("Tokens of a prompt, on average.")]
AnswerTokens = Annotated[float, number("Tokens of an answer, on average.")]
Cached = Annotated[float, number("Share of prompts' tokens that are cached.", 0, 1)]
Spread = Annotated[float, number("Deviation of lengths over their mean.", 0, 10)]
Ttft = Annotated[float, number("SLO: seconds to the first token, p99.", 0.001)]
Itl = Annotated[float, number("SLO: ms between two tokens.", 0.001)]
Plot = Annotated[Path | None, written("Write the frontier there, as SVG.")]
Values = Annotated[Path | None, written("Write Helm values there.")]
Profile = Annotated[Path | None, typer.Option(help="Devices and links that --calibrate measured.", dir_okay=False)]
Calibrate = Annotated[Path | None, written("Measure this machine for two minutes, and write its profile there.")]
