"""`caracal generate` and `caracal chat`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from services.cli.options import (
    Url,
    check_readable,
    fail,
    finite,
    gateway_address,
    header_value,
    plain_text,
    usage_error,
)
from services.process.settings import InvalidSetting

ApiKey = Annotated[
    str,
    typer.Option("--api-key", envvar="CARACAL_API_KEY", help="Key sent as a bearer token.", callback=header_value),
]


def generate(
    text: Annotated[str, typer.Argument(callback=plain_text)],
    url: Url = None,
    max_tokens: Annotated[int, typer.Option(min=1)] = 256,
    temperature: Annotated[float, typer.Option(min=0.0, max=2.0, callback=finite)] = 0.0,
    seed: Annotated[int | None, typer.Option()] = None,
    api_key: ApiKey = "",
) -> None:
    """Stream one answer."""
    from services.cli.generate import RequestFailed, stream_answer
    from services.cli.run_state import NoCluster
    from services.cli.terminal import without_controls

    options = {"max_tokens": max_tokens, "temperature": temperature} | ({} if seed is None else {"seed": seed})
    try:
        for text_delta in stream_answer(gateway_address(url), text, api_key=api_key, **options):
            sys.stdout.write(without_controls(text_delta) if sys.stdout.isatty() else text_delta)
            sys.stdout.flush()
        print()
    except (RequestFailed, NoCluster, InvalidSetting) as error:
        fail(str(error))


def chat(
    url: Url = None,
    system: Annotated[str, typer.Option(help="System message.", callback=plain_text)] = "",
    temperature: Annotated[
        float | None, typer.Option(min=0.0, max=2.0, help="Default: the server's.", callback=finite)
    ] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Most tokens of an answer.")] = None,
    seed: Annotated[int | None, typer.Option()] = None,
    model: Annotated[str, typer.Option(help="Default: the server's.", callback=plain_text)] = "",
    tools: Annotated[
        Path | None, typer.Option(help="JSON list of tools; you are asked for the result of each call.")
    ] = None,
    api_key: ApiKey = "",
) -> None:
    """Talk with the model; /help lists what else can be done. Without a terminal, each line of stdin is a turn.

    Exit code: 0; 1 when no gateway is known, or when a turn read from a pipe fails.
    """
    from services.cli.chat import Chat, has_colours, use_readline
    from services.cli.chat_history import History
    from services.cli.options import on_cluster

    given = {"temperature": temperature, "max_tokens": max_tokens, "seed": seed, "model": model or None}
    options: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if tools:
        options["tools"] = _tools(tools)
    interactive = sys.stdin.isatty()
    if interactive:
        use_readline()
    address = on_cluster(lambda: gateway_address(url))
    talk = Chat(address, History(system), options, api_key, interactive=interactive, colours=has_colours())
    raise typer.Exit(talk.run())


def _tools(path: Path) -> Any:
    check_readable("--tools", path)
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        usage_error(f"--tools {path}: {error}")
    if not isinstance(found, list):
        usage_error(f"--tools {path}: not a JSON list")
    return found
