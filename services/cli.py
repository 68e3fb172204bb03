"""The `caracal` command. Each command imports what it needs when it is called."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, NoReturn

import typer

app = typer.Typer(
    help="Caracal: serves LongCat-Flash-style models, with attention and experts as services that scale apart.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Url = Annotated[str, typer.Option("--url", help="The gateway; default: the cluster running here, or CARACAL_URL.")]
Context = Annotated[str, typer.Option("--context", help="A context of the kubeconfig: the cluster on Kubernetes.")]
Namespace = Annotated[str, typer.Option("--namespace", help="With --context; default: the context's own.")]
ReleaseName = Annotated[str, typer.Option("--release", help="With --context, when there are several.")]


@app.command()
def up(
    attention: Annotated[int, typer.Option(help="Attention workers.")] = 1,
    expert: Annotated[int, typer.Option(help="Expert workers.")] = 1,
    model: Annotated[Path | None, typer.Option(help="Checkpoint directory; default: the built-in model.")] = None,
    port: Annotated[int, typer.Option(help="Of the gateway; 0 takes any free one.")] = 8000,
    dtype: Annotated[str, typer.Option(help="bfloat16 or float32; default: the checkpoint's own.")] = "",
    tp: Annotated[int, typer.Option(help="Ranks of each attention worker: processes that share every layer.")] = 1,
    link: Annotated[str, typer.Option(help="Between attention and experts: grpc or nccl (gloo on CPUs).")] = "grpc",
    dispatch_dtype: Annotated[str, typer.Option(help="Of rows sent to experts: fp8; default: the model's.")] = "",
) -> None:
    """Start a cluster on this machine; Ctrl-C stops all of it."""
    from services.local.settings import DEFAULT_MODEL, LocalSettings
    from services.local.up import up as run

    where = LocalSettings(
        model=model or DEFAULT_MODEL,
        port=port,
        attention=attention,
        expert=expert,
        dtype=dtype,
        tp=tp,
        link=link,
        dispatch_dtype=dispatch_dtype,
    )
    run(where)


@app.command()
def generate(
    text: str,
    url: Url = "",
    max_tokens: Annotated[int, typer.Option(min=1)] = 256,
    temperature: Annotated[float, typer.Option(min=0.0, max=2.0)] = 0.0,
    seed: Annotated[int | None, typer.Option()] = None,
) -> None:
    """Stream one answer."""
    from services.local.answer import NoAnswer, stream_chat
    from services.local.state import NoCluster, find

    options = {"max_tokens": max_tokens, "temperature": temperature} | ({} if seed is None else {"seed": seed})
    try:
        address = url or find().url
        if not address:
            fail("no gateway is known: give --url or CARACAL_URL")
        for piece in stream_chat(address, text, **options):
            sys.stdout.write(piece)
            sys.stdout.flush()
        print()
    except (NoAnswer, NoCluster) as error:
        fail(str(error))


@app.command()
def status(
    watch: Annotated[bool, typer.Option("--watch", help="Look again each second.")] = False,
    gateway: Annotated[str, typer.Option(help="Ask the gateway at this URL instead of the cluster's Redis.")] = "",
    context: Context = "",
    namespace: Namespace = "",
    release: ReleaseName = "",
) -> None:
    """Show workers, what they hold, and what the experts cost."""
    from services.local.status import status as run

    if gateway and context:
        fail("--gateway and --context name two clusters: give one")
    _check_context(context, namespace, release)
    if context and watch:
        fail("--watch goes with --gateway or the cluster running here")

    def show() -> None:
        if context:
            from services.local.kube import Release
            from services.local.pods import show as show_release

            show_release(Release(context, namespace, release))
        else:
            run(watch, gateway)

    _asks_cluster(show)


@app.command()
def scale(
    counts: Annotated[list[str], typer.Argument(metavar="ROLE=COUNT...", help="expert=3 attention=2")],
    context: Context = "",
    namespace: Namespace = "",
    release: ReleaseName = "",
) -> None:
    """Change the number of workers of the cluster running here, or on Kubernetes, and wait until it is so."""
    from services.local.scale import parse_counts
    from services.local.scale import scale as run

    _check_context(context, namespace, release)

    def change() -> None:
        if context:
            from services.local.kube import Release, check_pods

            wanted = parse_counts(counts, check_pods)
            Release(context, namespace, release).scale(wanted)
        else:
            run(parse_counts(counts))

    _asks_cluster(change)


@app.command()
def plan(
    model: Annotated[str, typer.Argument(help="A checkpoint directory, its config.json, or flash-chat.")],
    memory: Annotated[float, typer.Option(help="GB of one expert worker for experts.", min=0.001)] = 80.0,
    attention_memory: Annotated[float, typer.Option(help="GB of one attention worker.", min=0.001)] = 80.0,
) -> None:
    """Say how many workers a model needs. Arithmetic only."""
    from services.local.plan import BadPlan, load_sizes, show

    try:
        show(load_sizes(model), memory, attention_memory)
    except BadPlan as error:
        fail(str(error))


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []})
def bench(context: typer.Context) -> None:
    """Measure; `caracal bench --help` tells what. Needs a checkout of the repository."""
    sys.path.append(str(Path(__file__).resolve().parent.parent))  # bench/ is not installed, it is only there
    try:
        from bench.main import main as run  # type: ignore[import-not-found, unused-ignore]
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] != "bench":
            fail(f"the benchmarks need {error.name}: make test installs it")
        fail("bench/ is not here: run `caracal bench` in a checkout of the repository")
    run(context.args)


def fail(message: str) -> NoReturn:
    """One line, exit code 1."""
    print(f"caracal: {message}", file=sys.stderr)
    raise typer.Exit(1)


def _check_context(context: str, namespace: str, release: str) -> None:
    """A command meant for Kubernetes must not fall on the cluster running here."""
    if (namespace or release) and not context:
        fail("--namespace and --release go with --context")


def _asks_cluster(run: Callable[[], None]) -> None:
    """Runs a command that talks to a cluster; what is expected to go wrong becomes one line."""
    from services.local.settings import BadSetting
    from services.local.state import NoCluster
    from services.membership import RedisUnavailable

    try:
        run()
    except (BadSetting, NoCluster) as error:
        fail(str(error))
    except RedisUnavailable as error:
        fail(f"the cluster's Redis does not answer: {error}")
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


def main() -> None:
    app()


if __name__ == "__main__":
    main()
