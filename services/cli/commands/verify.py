"""`caracal verify`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from services.cli.options import FAILED, AsJson, fail, on_cluster, option, usage_error
from services.local.settings import LocalSettings
from services.process.settings import InvalidSetting, rule_of

if TYPE_CHECKING:
    from services.cli.verify.command import Shape

SHAPE: dict[str, Any] = {"model": None, "attention": 1, "expert": 1, "tp": 1, "link": "", "tls": False, "given": None}


def _help(name: str) -> str:
    text = rule_of(LocalSettings, name).help
    return f"{text[0].upper()}{text[1:]}."


def verify(
    logs: Annotated[list[Path], typer.Argument(metavar="LOG...", help="Files that --record has written.")],
    url: Annotated[
        str | None, option("--url", "Replay on the running cluster of this gateway, and start none.")
    ] = None,
    running: Annotated[
        bool, typer.Option("--running", help="Replay on the cluster that other commands find, and start none.")
    ] = False,
    model: Annotated[Path | None, typer.Option(help="Checkpoint to replay on; default: the record's.")] = None,
    attention: Annotated[int, typer.Option(help=_help("attention"))] = 1,
    expert: Annotated[int, typer.Option("--expert", "--experts", help=_help("expert"))] = 1,
    tp: Annotated[int, typer.Option(help="Tensor-parallel ranks of each attention worker.")] = 1,
    link: Annotated[str, typer.Option(help=_help("link"))] = "",
    tls: Annotated[bool, typer.Option("--tls", help="TLS between the cluster's processes.")] = False,
    given: Annotated[
        list[str] | None, typer.Option("--set", metavar="CARACAL_X=VALUE", help="A further setting; may be repeated.")
    ] = None,
    cache: Annotated[
        str, typer.Option(help="Prefix cache: cold = off; warm = everything twice, the second time from it.")
    ] = "",
    passes: Annotated[int, typer.Option(min=1, max=1000, help="Replay everything so many times.")] = 1,
    concurrency: Annotated[int, typer.Option(min=1, max=512, help="Most requests open at one time.")] = 8,
    any_class: Annotated[
        bool, typer.Option("--any-class", help="Compare although the numerics class is another one.")
    ] = False,
    score: Annotated[
        bool, typer.Option("--score", help="Score answers with logprobs as prompts, too, and compare those bits.")
    ] = False,
    layers: Annotated[
        bool, typer.Option("--layers/--no-layers", help="Find the layer of the first difference.")
    ] = True,
    reference: Annotated[
        Path | None, typer.Option(help="Checkpoint that layers are compared with; default: the record's.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Replay a record on a cluster of any shape and compare every bit: tokens, logits, log-probabilities, endings.

    Exit code: 0 when no bit differs, else 1.
    """
    _run(**locals())


def _run(logs: list[Path], url: str | None, running: bool, model: Path | None, as_json: bool, **more: Any) -> None:
    from services.cli.verify.command import BadLog, CannotReplay, Options
    from services.cli.verify.command import verify as run
    from services.process.telemetry import configure_logging

    cache = more.pop("cache")
    if cache not in ("", "cold", "warm"):
        usage_error(f"--cache is {cache!r}: must be cold or warm")
    if cache == "cold" and (url or running):
        usage_error("--cache cold is for a cluster that is started: one that runs has its own setting")
    if cache == "cold":
        more["given"] = [*(more["given"] or []), "CARACAL_PREFIX_CACHE=0"]
    elif cache == "warm":
        more["passes"] *= 2
    shaping = {"model": model} | {name: more.pop(name) for name in SHAPE if name != "model"}
    asked = {name: value for name, value in shaping.items() if value != SHAPE[name]}
    if (url or running) and asked:
        wrong = "--set" if "given" in asked else f"--{next(iter(asked))}"
        named = "--url" if url else "--running"
        usage_error(f"{wrong} is for a cluster that is started, and {named} names one that runs")
    configure_logging("verify", level="WARNING")
    try:
        shape = None if url or running else _shape(**asked)
    except InvalidSetting as error:
        usage_error(str(error))
    try:
        report = on_cluster(lambda: run(Options(logs=logs, shape=shape, url=url or "", **more)))
    except (BadLog, CannotReplay) as error:
        fail(str(error))
    print(json.dumps(report.values()) if as_json else report.text())
    if not report.equal:
        raise typer.Exit(FAILED)


def _shape(given: list[str] | None = None, **asked: Any) -> Shape:
    """Raises InvalidSetting for what is wrong with it, before anything is read."""
    from services.cli.verify.clusters import parse_settings
    from services.cli.verify.command import Shape

    shape = Shape(**asked, environment=tuple(parse_settings(given or []).items()))
    shape.settings(LocalSettings.model)
    return shape
