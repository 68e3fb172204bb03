"""The group of all commands: what cannot be parsed is one line on stderr, as every other error is."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import typer
from typer.core import TyperGroup

from services.cli.options import FAILED
from services.cli.terminal import without_controls


class CommandGroup(TyperGroup):
    """Prints no usage and no box beside an error: whoever wants them asks for --help."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        """Runs a command and exits with its code; without `standalone_mode` it returns, or raises, instead."""
        run = super().main
        try:
            done = run(args, prog_name, complete_var, False, windows_expand_args, **extra)
        except typer.TyperException as error:
            if not standalone_mode:
                raise
            # Without arguments there is help instead of an error, which was printed then.
            if message := one_line(error):
                print(f"caracal: {message}", file=sys.stderr)
            sys.exit(error.exit_code)
        except typer.Abort:
            if not standalone_mode:
                raise
            print("caracal: aborted", file=sys.stderr)
            sys.exit(FAILED)
        if standalone_mode:
            sys.exit(done if isinstance(done, int) else 0)
        return done


def one_line(error: typer.TyperException) -> str:
    """Returns an error with where its help is; the words of the command line are the user's own."""
    text = without_controls(" ".join(error.format_message().split())).rstrip(".")
    context = getattr(error, "ctx", None)
    if not text or context is None:
        return text
    return f"{text[0].lower()}{text[1:]} (see {context.command_path} --help)"
