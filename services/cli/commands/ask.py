"""`caracal generate` and `caracal chat`."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from services.cli.options import Url, fail, gateway_address
from services.process.settings import InvalidSetting

ApiKey = Annotated[
    str, typer.Option("--api-key", envvar="OPENAI_API_KEY", help="Key sent as a bearer token.", show_envvar=True)
]


def generate(
    text: str,
    url: Url = None,
    max_tokens: Annotated[int, typer.Option(min=1)] = 256,
    temperature: Annotated[float, typer.Option(min=0.0, max=2.0)] = 0.0,
    seed: Annotated[int | None, typer.Option()] = None,
    api_key: ApiKey = "",
) -> None:
    """Stream one answer."""
    from services.cli.generate import RequestFailed, stream_answer
    from services.cli.run_state import NoCluster

    options = {"max_tokens": max_tokens, "temperature": temperature} | ({} if seed is None else {"seed": seed})
    try:
        for text_delta in stream_answer(gateway_address(url), text, api_key=api_key, **options):
            sys.stdout.write(text_delta)
            sys.stdout.flush()
        print()
    except (RequestFailed, NoCluster, InvalidSetting) as error:
        fail(str(error))
