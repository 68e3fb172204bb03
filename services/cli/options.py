"""Options that several commands have, exit codes, and errors of one line."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar

import typer

from services.cli.gateway_url import gateway_parts
from services.cli.terminal import is_text
from services.process.settings import InvalidSetting

# Exit codes: docs/commands.md has them for users. Ctrl-C is 130 where it does not end a command in order.
FAILED, USAGE, CANNOT_SERVE, INTERRUPTED = 1, 2, 3, 130

Result = TypeVar("Result")


def fail(message: str, code: int = FAILED) -> NoReturn:
    """Prints one line to stderr and exits with the code."""
    print(f"caracal: {message}", file=sys.stderr)
    raise typer.Exit(code)


def usage_error(message: str) -> NoReturn:
    """Prints one line to stderr and exits with 2: an option or an argument cannot be used."""
    fail(message, USAGE)


def not_empty(value: str | None, param: typer.CallbackParam) -> str | None:
    """Fails on an empty string: an unset shell variable must not select the default cluster."""
    if value == "":
        usage_error(f"{param.opts[0]} is empty")
    return value


def finite(value: float | None, param: typer.CallbackParam) -> float | None:
    """Fails on what is within every range, or within none, and no number of JSON."""
    if value is not None and not math.isfinite(value):
        usage_error(f"{param.opts[0]} is {value}: must be a finite number")
    return value


def plain_text(value: str | None, param: typer.CallbackParam) -> str | None:
    """Fails on bytes that are no text."""
    if value is not None and not is_text(value):
        usage_error(f"{param.opts[0]} is not UTF-8")
    return value


def header_value(value: str | None, param: typer.CallbackParam) -> str | None:
    """Fails on what no HTTP header can have."""
    if value and not (value.isascii() and value.isprintable()):
        usage_error(f"{param.opts[0]} has characters that no HTTP header can have")
    return value


def usable_url(value: str | None, param: typer.CallbackParam) -> str | None:
    """Fails on what is no URL; none is the default gateway."""
    if not_empty(value, param) is not None:
        try:
            gateway_parts(value or "")
        except ValueError as error:
            usage_error(f"{param.opts[0]}: {error}")
    return value


def option(name: str, text: str, check: Callable[..., str | None] = not_empty) -> Any:
    return typer.Option(name, help=text, callback=check)


Url = Annotated[
    str | None, option("--url", "URL of the gateway; default: CARACAL_URL, or the cluster running here.", usable_url)
]
Gateway = Annotated[
    str | None, option("--gateway", "URL of a gateway to ask; default: the cluster running here.", usable_url)
]
Context = Annotated[str | None, option("--context", "A release on Kubernetes: the context of the kubeconfig.")]
Namespace = Annotated[str | None, option("--namespace", "Namespace, with --context; default: that of the context.")]
ReleaseName = Annotated[str | None, option("--release", "Release, with --context; needed if there are several.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def check_context(context: str | None, namespace: str | None, release: str | None) -> None:
    """Without this, a command meant for Kubernetes would act on the cluster running here."""
    if (namespace or release) and not context:
        usage_error("--namespace and --release go with --context")


def on_cluster(run: Callable[[], Result]) -> Result:
    """Runs a command that talks to a cluster; an expected error becomes one line and exit code 1."""
    from services.cli.run_state import NoCluster
    from services.membership.redis import RedisUnavailable

    try:
        return run()
    except (InvalidSetting, NoCluster) as error:
        fail(str(error))
    except RedisUnavailable as error:
        fail(f"the cluster's Redis does not answer: {error}")
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None


def gateway_address(url: str | None) -> str:
    """The URL that was given, else that of CARACAL_URL or of the cluster running here. Raises NoCluster."""
    from services.cli.run_state import NoCluster, find

    if address := url or find().url:
        return address
    raise NoCluster("no gateway is known: give --url or CARACAL_URL")


def check_readable(name: str, path: Path) -> None:
    """Fails for a file that cannot be read, which the option `name` gives."""
    try:
        path.open("rb").close()
    except OSError as error:
        usage_error(f"{name} {path}: {error.strerror or error}")


def example(text: str) -> str:
    """An epilog of --help."""
    return f"Example: {text}"
