"""`caracal status`, `caracal top` and `caracal logs`: what a cluster is doing."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from services.cli.options import (
    CANNOT_SERVE,
    INTERRUPTED,
    AsJson,
    Context,
    Gateway,
    Namespace,
    ReleaseName,
    check_context,
    finite,
    gateway_address,
    on_cluster,
    usage_error,
)


def status(
    watch: Annotated[bool, typer.Option("--watch", help="Refresh every second.")] = False,
    numerics: Annotated[
        bool, typer.Option("--numerics", help="Show what the bits of answers depend on, instead of the workers.")
    ] = False,
    every: Annotated[bool, typer.Option("--all", help="Show every worker, also many of one kind.")] = False,
    plan: Annotated[
        Path | None, typer.Option(help="Compare with what `caracal plan --json` printed.", dir_okay=False)
    ] = None,
    as_json: AsJson = False,
    gateway: Gateway = None,
    context: Context = None,
    namespace: Namespace = None,
    release: ReleaseName = None,
) -> None:
    """Show the workers: state, experts loaded, load, and time spent waiting for experts.

    Exit code: 0 when the cluster can serve requests (with --plan: has what was planned), 3 when it cannot, 1 when its
    state cannot be read.
    """
    from services.cli.run_state import admin_url
    from services.cli.status import chosen_view, print_json
    from services.cli.status import status as run

    if gateway and context:
        usage_error("--gateway and --context name two clusters: give one of them")
    check_context(context, namespace, release)
    if watch and (context or as_json):
        usage_error(f"--watch does not work with {'--context' if context else '--json'}")
    if plan is not None and (watch or context or as_json):
        usage_error("--plan goes with none of --watch, --context and --json")

    def show() -> bool:
        if plan is not None:
            return _beside_plan(plan, admin_url(gateway) if gateway else "")
        if context:
            from services.cli.kube import show as pods
            from services.cli.kube.release import Release

            found = Release(context, namespace or "", release or "")
            return pods.show_json(found) if as_json else pods.show(found, chosen_view(numerics, every), every)
        url = admin_url(gateway) if gateway else ""
        return print_json(url) if as_json else run(watch, url, chosen_view(numerics, every))

    if not on_cluster(show):
        raise typer.Exit(CANNOT_SERVE)


def _beside_plan(path: Path, url: str) -> bool:
    """Whether the cluster has what was planned."""
    from services.cli.planning.compare import read_plan, show
    from services.cli.planning.errors import BadPlan
    from services.cli.status import read

    try:
        wanted = read_plan(path)
    except BadPlan as error:
        usage_error(f"--plan {error}")
    return show(wanted, read(url))


def top(
    once: Annotated[bool, typer.Option("--once", help="Show one interval and exit.")] = False,
    interval: Annotated[float, typer.Option(min=0.1, max=3600, help="Seconds of an interval.", callback=finite)] = 2.0,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object for each interval.")] = False,
    gateway: Gateway = None,
) -> None:
    """Watch the load: tokens and requests per second, latencies, and each worker, over the last interval.

    Exit code: 0, also after Ctrl-C; 1 when the cluster's state cannot be read.
    """
    from services.cli.run_state import admin_url
    from services.cli.top_view import top as run

    try:
        on_cluster(lambda: run(admin_url(gateway_address(gateway)), interval, once, as_json))
    except typer.Exit as ended:
        if ended.exit_code != INTERRUPTED or once:
            raise


def _worker_names(incomplete: str) -> list[str]:
    """Names of the processes of the cluster running here, for the shell; none when there is no cluster."""
    from services.cli.local_logs import log_directory, worker_names
    from services.cli.run_state import NoCluster

    try:
        return [name for name in worker_names(log_directory()) if name.startswith(incomplete)]
    except NoCluster:
        return []


def logs(
    workers: Annotated[
        list[str] | None, typer.Argument(metavar="WORKER...", help="Default: all.", autocompletion=_worker_names)
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as lines are written; Ctrl-C ends it.")] = False,
    tail: Annotated[
        int | None, typer.Option("--tail", "-n", min=0, help="Only the last lines of each worker; default: all.")
    ] = None,
    since: Annotated[str, typer.Option(help="Only lines of the last 90s, 5m or 1h30m, or since a time.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
    context: Context = None,
    namespace: Namespace = None,
    release: ReleaseName = None,
) -> None:
    """Show the logs of the workers, in the order of time, of this machine's cluster or of a release on Kubernetes."""
    from datetime import UTC, datetime

    from services.cli.log_lines import parse_since

    check_context(context, namespace, release)
    try:
        start = parse_since(since, datetime.now(UTC)) if since else None
    except ValueError as error:
        usage_error(str(error))

    def show() -> None:
        if context:
            from services.cli.kube.logs import show_logs as of_pods
            from services.cli.kube.release import Release

            of_pods(Release(context, namespace or "", release or ""), workers or [], follow, tail, start, as_json)
        else:
            from services.cli.local_logs import show_logs

            show_logs(workers or [], follow, tail, start, as_json)

    try:
        on_cluster(show)
    except typer.Exit as ended:
        if ended.exit_code != INTERRUPTED or not follow:
            raise
