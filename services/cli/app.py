"""The `caracal` command. Each command imports what it needs when it is called."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar

import typer

app = typer.Typer(
    help="Caracal: serves LongCat-Flash-style models, with attention and experts as services that scale apart.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Answer = TypeVar("Answer")
CANNOT_SERVE = 3  # exit code of `caracal status`


def _not_empty(value: str | None, param: typer.CallbackParam) -> str | None:
    """An empty word is a variable that was not set: it must not mean the cluster running here."""
    if value == "":
        fail(f"{param.opts[0]} is empty")
    return value


def _option(name: str, text: str) -> Any:
    return typer.Option(name, help=text, callback=_not_empty)


def _setting(variable: str, text: str) -> Any:
    """An option of `up` that sets the variable for workers, and is taken from it where it is not given."""
    return typer.Option(help=text, envvar=variable)


Url = Annotated[str | None, _option("--url", "The gateway; default: the cluster running here, or CARACAL_URL.")]
Gateway = Annotated[str | None, _option("--gateway", "Ask the gateway at this URL instead of the cluster's Redis.")]
Context = Annotated[str | None, _option("--context", "A context of the kubeconfig: the cluster on Kubernetes.")]
Namespace = Annotated[str | None, _option("--namespace", "With --context; default: the context's own.")]
ReleaseName = Annotated[str | None, _option("--release", "With --context, when there are several.")]


@app.command()
def up(
    attention: Annotated[int, typer.Option(help="Attention workers.")] = 1,
    expert: Annotated[int, typer.Option(help="Expert workers.")] = 1,
    model: Annotated[Path | None, typer.Option(help="Checkpoint directory; default: the built-in model.")] = None,
    port: Annotated[int, typer.Option(help="Of the gateway; 0 takes any free one.")] = 8000,
    dtype: Annotated[str, _setting("CARACAL_DTYPE", "bfloat16 or float32; default: the checkpoint's own.")] = "",
    device: Annotated[str, _setting("CARACAL_DEVICE", "Of all workers: cpu, cuda or cuda:N.")] = "cpu",
    tp: Annotated[int, _setting("CARACAL_TP", "Ranks of an attention worker: processes that share every layer.")] = 1,
    kv_pages: Annotated[int, _setting("CARACAL_KV_PAGES", "Of an attention worker's latent cache; 0 = 512.")] = 0,
    link: Annotated[str, _setting("CARACAL_LINK", "Attention to experts: grpc or nccl (gloo on CPUs).")] = "grpc",
    dispatch_dtype: Annotated[str, _setting("CARACAL_DISPATCH_DTYPE", "Of rows sent to experts: fp8.")] = "",
) -> None:
    """Start a cluster on this machine; Ctrl-C stops all of it."""
    from services.cli.up import up as run
    from services.local.settings import DEFAULT_MODEL, LocalSettings

    where = LocalSettings(
        model=model or DEFAULT_MODEL,
        port=port,
        attention=attention,
        expert=expert,
        dtype=dtype,
        device=device,
        tp=tp,
        kv_pages=kv_pages,
        link=link,
        dispatch_dtype=dispatch_dtype,
    )
    run(where)


@app.command()
def generate(
    text: str,
    url: Url = None,
    max_tokens: Annotated[int, typer.Option(min=1)] = 256,
    temperature: Annotated[float, typer.Option(min=0.0, max=2.0)] = 0.0,
    seed: Annotated[int | None, typer.Option()] = None,
) -> None:
    """Stream one answer."""
    from services.cli.generate import RequestFailed, stream_chat
    from services.cli.run_state import NoCluster, find

    options = {"max_tokens": max_tokens, "temperature": temperature} | ({} if seed is None else {"seed": seed})
    try:
        address = url or find().url
        if not address:
            fail("no gateway is known: give --url or CARACAL_URL")
        for piece in stream_chat(address, text, **options):
            sys.stdout.write(piece)
            sys.stdout.flush()
        print()
    except (RequestFailed, NoCluster) as error:
        fail(str(error))


@app.command()
def status(
    watch: Annotated[bool, typer.Option("--watch", help="Look again each second.")] = False,
    gateway: Gateway = None,
    context: Context = None,
    namespace: Namespace = None,
    release: ReleaseName = None,
) -> None:
    """Show workers, what they hold, and what the experts cost.

    Exit code: 0 when the cluster can serve requests, 3 when it cannot, 1 when nothing is known of it.
    """
    from services.cli.status import status as run

    if gateway and context:
        fail("--gateway and --context name two clusters: give one")
    _check_context(context, namespace, release)
    if context and watch:
        fail("--watch goes with --gateway or the cluster running here")

    def show() -> bool:
        if context:
            from services.cli.kube.release import Release
            from services.cli.kube.show import show as show_release

            return show_release(Release(context, namespace or "", release or ""))
        return run(watch, gateway or "")

    if not _asks_cluster(show):
        raise typer.Exit(CANNOT_SERVE)


@app.command()
def scale(
    counts: Annotated[list[str], typer.Argument(metavar="ROLE=COUNT...", help="expert=3 attention=2")],
    context: Context = None,
    namespace: Namespace = None,
    release: ReleaseName = None,
    timeout: Annotated[int, typer.Option(min=0, help="Seconds to wait; 0: set the counts, do not wait.")] = 600,
) -> None:
    """Change the number of workers of the cluster running here, or on Kubernetes, and wait until it is so.

    Exit code: 0 when it is so (or with --timeout 0), 1 when it is not in time, or somebody else sets another number.
    """
    from services.cli.scale import parse_counts
    from services.cli.scale import scale as run

    _check_context(context, namespace, release)

    def change() -> None:
        if context:
            from services.cli.kube.release import Release, check_pods

            wanted = parse_counts(counts, check_pods)
            Release(context, namespace or "", release or "").scale(wanted, timeout)
        else:
            run(parse_counts(counts), timeout)

    _asks_cluster(change)


@app.command()
def plan(
    model: Annotated[str, typer.Argument(help="A checkpoint directory, its config.json, or flash-chat.")],
    memory: Annotated[float, typer.Option(help="GB of one expert worker for experts.", min=0.001)] = 80.0,
    attention_memory: Annotated[float, typer.Option(help="GB of one attention worker.", min=0.001)] = 80.0,
) -> None:
    """Say how many workers a model needs. Arithmetic only."""
    from services.cli.plan import BadPlan, load_sizes, show

    try:
        show(load_sizes(model), memory, attention_memory)
    except BadPlan as error:
        fail(str(error))


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []})
def bench(context: typer.Context) -> None:
    """Measure; `caracal bench --help` tells what. Needs a checkout of the repository."""
    sys.path.append(str(Path(__file__).resolve().parents[2]))  # bench/ is not installed, it is only there
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


def _check_context(context: str | None, namespace: str | None, release: str | None) -> None:
    """A command meant for Kubernetes must not fall on the cluster running here."""
    if (namespace or release) and not context:
        fail("--namespace and --release go with --context")


def _asks_cluster(run: Callable[[], Answer]) -> Answer:
    """Runs a command that talks to a cluster; what is expected to go wrong becomes one line."""
    from services.cli.run_state import NoCluster
    from services.local.settings import InvalidSetting
    from services.membership.redis import RedisUnavailable

    try:
        return run()
    except (InvalidSetting, NoCluster) as error:
        fail(str(error))
    except RedisUnavailable as error:
        fail(f"the cluster's Redis does not answer: {error}")
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


def main() -> None:
    app()


if __name__ == "__main__":
    main()
