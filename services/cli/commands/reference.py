"""`caracal settings`: what can be known without a cluster."""

from __future__ import annotations

from typing import Annotated

import typer

from services.cli.options import AsJson, usage_error


def setting_names(incomplete: str) -> list[str]:
    """Names of variables, for the shell, spelled as what the user has begun: CARACAL_TP, caracal_tp or tp."""
    from services.cli.settings import names
    from services.process.settings import PREFIX

    forms = ((name, name.lower(), name.lower().removeprefix(PREFIX.lower())) for name in names())
    found = (next((form for form in one if form.startswith(incomplete)), "") for one in forms)
    return [form for form in found if form]


def settings(
    wanted: Annotated[
        list[str] | None,
        typer.Argument(metavar="NAME...", help="Only these variables.", autocompletion=setting_names),
    ] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="As docs/settings.md has them.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show every CARACAL_* variable, its default and its meaning."""
    from services.cli.settings import UnknownSetting, show, show_json
    from services.cli.settings import markdown as as_markdown

    if markdown and (as_json or wanted):
        usage_error("--markdown shows all settings: it goes with no other option or name")
    try:
        if markdown:
            print(as_markdown(), end="")
        else:
            (show_json if as_json else show)(wanted or [])
    except UnknownSetting as error:
        usage_error(str(error))
