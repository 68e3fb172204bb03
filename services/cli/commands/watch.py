"""`caracal status`: what a cluster is doing."""

from __future__ import annotations

from typing import Annotated

import typer

from services.cli.options import (
    CANNOT_SERVE,
    AsJson,
    Context,
    Gateway,
    Namespace,
    ReleaseName,
    check_context,
    on_cluster,
    usage_error,
)


def status(
    watch: Annotated[bool, typer.Option("--watch", help="Refresh every second.")] = False,
    numerics: Annotated[
        bool, typer.Option("--numerics", help="Show what the bits of answers depend on, instead of the workers.")
    ] = False,
    every: Annotated[bool, typer.Option("--all", help="Show every worker, also many of one kind.")] = False,
    as_json: AsJson = False,
    gateway: Gateway = None,
    context: Context = None,
    namespace: Namespace = None,
    release: ReleaseName = None,
) -> None:
    """Show the workers: state, experts loaded, load, and time spent waiting for experts.

    Exit code: 0 when the cluster can serve requests, 3 when it cannot, 1 when its state cannot be read.
    """
    from services.cli.status import chosen_view, print_json
    from services.cli.status import status as run

    if gateway and context:
        usage_error("--gateway and --context name two clusters: give one of them")
    check_context(context, namespace, release)
    if watch and (context or as_json):
        usage_error(f"--watch does not work with {'--context' if context else '--json'}")

    def show() -> bool:
        if context:
            from services.cli.kube import show as pods
            from services.cli.kube.release import Release

            found = Release(context, namespace or "", release or "")
            return pods.show_json(found) if as_json else pods.show(found, chosen_view(numerics, every), every)
        return print_json(gateway or "") if as_json else run(watch, gateway or "", chosen_view(numerics, every))

    if not on_cluster(show):
        raise typer.Exit(CANNOT_SERVE)
