"""The `caracal` command. Each command imports what it needs when it is called."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from services.cli.command_group import CommandGroup
from services.cli.commands.ask import chat, generate
from services.cli.commands.cluster import scale, up
from services.cli.commands.keys import key
from services.cli.commands.load import ServeCommand
from services.cli.commands.load import serve as bench_serve
from services.cli.commands.plan import plan
from services.cli.commands.reference import settings
from services.cli.commands.verify import verify
from services.cli.commands.watch import logs, status, top
from services.cli.commands.weights import fetch, manifest, prune
from services.cli.options import example, fail
from services.cli.terminal import plain_where_needed

app = typer.Typer(
    name="caracal",
    cls=CommandGroup,
    help="Caracal: serves LongCat-Flash-style models, with attention and experts as services that scale apart.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    epilog="Exit codes: 0 done, 1 failed, 2 wrong usage, 3 the cluster cannot serve requests.",
)

COMMANDS = (
    (up, "up", "caracal up --model DIR --expert 2"),
    (up, "serve", "caracal serve DIR --port 8000"),
    (generate, "generate", "caracal generate 'What is 12 + 30?'"),
    (chat, "chat", "caracal chat --system 'Answer in one line.'"),
    (status, "status", "caracal status --watch"),
    (top, "top", "caracal top --once --json"),
    (logs, "logs", "caracal logs expert-0 --follow --since 5m"),
    (scale, "scale", "caracal scale expert=3"),
    (verify, "verify", "caracal verify rollouts.jsonl --expert 3 --link grpc"),
    (key, "key", "caracal key alice --requests-per-minute 60 --file keys.toml"),
    (plan, "plan", "caracal plan flash-chat --memory 141"),
    (fetch, "fetch", "caracal fetch hf://ORG/NAME@REVISION models/name"),
    (manifest, "manifest", "caracal manifest s3://BUCKET/PREFIX --output caracal-manifest.json"),
    (prune, "prune", "caracal prune /model/HASH --keep 2"),
    (settings, "settings", "caracal settings max_itl_ms"),
)
for function, name, text in COMMANDS:
    help = (
        "Start a cluster: the same as `caracal up`, under the name that users of vLLM know."
        if name == "serve"
        else None
    )
    app.command(name, help=help, epilog=example(text))(function)


class BenchGroup(TyperGroup):
    """Takes what names no command as arguments of `caracal bench suite`, which was all there was."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        completing = ctx.resilient_parsing
        named = completing or (args and (args[0] in self.commands or args[0] == "--help"))
        return super().parse_args(ctx, args if named else ["suite", *args])


bench_app = typer.Typer(cls=BenchGroup, help="Benchmarks: `serve` loads any endpoint, `suite` measures this project.")
app.add_typer(bench_app, name="bench", epilog="Without a command it is `suite`: `caracal bench --smoke`.")
bench_app.command(
    "serve", cls=ServeCommand, epilog=example("caracal bench serve --max-concurrency 32 --num-prompts 200")
)(bench_serve)


@bench_app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
)
def suite(context: typer.Context) -> None:
    """Measure this project on this machine (`make bench`). Needs a checkout of the repository."""
    sys.path.append(str(Path(__file__).resolve().parents[2]))  # bench/ is not installed
    try:
        from bench.main import main as run  # type: ignore[import-not-found, unused-ignore]
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] != "bench":
            fail(f"the benchmarks need {error.name}: make test installs it")
        fail("there is no bench/: run `caracal bench` in a checkout of the repository")
    run(context.args)


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import PackageNotFoundError, version

        try:
            print(f"caracal {version('caracal')}")
        except PackageNotFoundError:
            print("caracal 0+source")
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """Caracal: serves LongCat-Flash-style models, with attention and experts as services that scale apart."""


def main() -> None:
    plain_where_needed()
    app(prog_name="caracal")


if __name__ == "__main__":
    main()
