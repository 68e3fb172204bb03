"""The `caracal` command. Each command imports what it needs when it is called."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar

import typer

from services.attention_worker.settings import AttentionSettings
from services.cli.terminal import plain_where_needed
from services.local.settings import LocalSettings
from services.process.settings import InvalidSetting, rule_of

app = typer.Typer(
    help="Caracal: serves LongCat-Flash-style models, with attention and experts as services that scale apart.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Result = TypeVar("Result")
PASSED_ON = ("host", "dtype", "device", "tp", "kv_pages", "max_itl_ms", "link", "dispatch_dtype", "generation_config")
CANNOT_SERVE = 3  # exit code of `caracal status`


def _not_empty(value: str | None, param: typer.CallbackParam) -> str | None:
    """Fails on an empty string: an unset shell variable must not select the default cluster."""
    if value == "":
        fail(f"{param.opts[0]} is empty")
    return value


def _option(name: str, text: str) -> Any:
    return typer.Option(name, help=text, callback=_not_empty)


def _setting(name: str) -> Any:
    """An option of `up` for a setting; those that workers have as well are taken from their variables if not given."""
    help = rule_of(LocalSettings, name).help
    variable = AttentionSettings.label(name) if name in PASSED_ON else None
    return typer.Option(LocalSettings.label(name), help=f"{help[0].upper()}{help[1:]}.", envvar=variable)


Url = Annotated[str | None, _option("--url", "URL of the gateway; default: CARACAL_URL, or the cluster running here.")]
Gateway = Annotated[str | None, _option("--gateway", "URL of a gateway to ask; default: the cluster running here.")]
Context = Annotated[str | None, _option("--context", "A release on Kubernetes: the context of the kubeconfig.")]
Namespace = Annotated[str | None, _option("--namespace", "Namespace, with --context; default: that of the context.")]
ReleaseName = Annotated[str | None, _option("--release", "Release, with --context; needed if there are several.")]


@app.command()
def up(
    attention: Annotated[int, _setting("attention")] = LocalSettings.attention,
    expert: Annotated[int, _setting("expert")] = LocalSettings.expert,
    model: Annotated[Path, _setting("model")] = LocalSettings.model,
    host: Annotated[str, _setting("host")] = LocalSettings.host,
    port: Annotated[int, _setting("port")] = LocalSettings.port,
    dtype: Annotated[str, _setting("dtype")] = LocalSettings.dtype,
    device: Annotated[str, _setting("device")] = LocalSettings.device,
    tp: Annotated[int, _setting("tp")] = LocalSettings.tp,
    kv_pages: Annotated[int, _setting("kv_pages")] = LocalSettings.kv_pages,
    max_itl_ms: Annotated[float, _setting("max_itl_ms")] = LocalSettings.max_itl_ms,
    link: Annotated[str, _setting("link")] = LocalSettings.link,
    dispatch_dtype: Annotated[str, _setting("dispatch_dtype")] = LocalSettings.dispatch_dtype,
    generation_config: Annotated[str, _setting("generation_config")] = LocalSettings.generation_config,
) -> None:
    """Start a cluster on this machine; Ctrl-C stops it."""
    from services.cli.up import up as run

    try:
        settings = LocalSettings(
            model=model,
            host=host,
            port=port,
            attention=attention,
            expert=expert,
            dtype=dtype,
            device=device,
            tp=tp,
            kv_pages=kv_pages,
            max_itl_ms=max_itl_ms,
            link=link,
            dispatch_dtype=dispatch_dtype,
            generation_config=generation_config,
        )
    except InvalidSetting as error:
        fail(str(error))
    run(settings)


@app.command()
def generate(
    text: str,
    url: Url = None,
    max_tokens: Annotated[int, typer.Option(min=1)] = 256,
    temperature: Annotated[float, typer.Option(min=0.0, max=2.0)] = 0.0,
    seed: Annotated[int | None, typer.Option()] = None,
) -> None:
    """Stream one answer."""
    from services.cli.generate import RequestFailed, stream_answer
    from services.cli.run_state import NoCluster, find

    options = {"max_tokens": max_tokens, "temperature": temperature} | ({} if seed is None else {"seed": seed})
    try:
        address = url or find().url
        if not address:
            fail("no gateway is known: give --url or CARACAL_URL")
        for text_delta in stream_answer(address, text, **options):
            sys.stdout.write(text_delta)
            sys.stdout.flush()
        print()
    except (RequestFailed, NoCluster, InvalidSetting) as error:
        fail(str(error))


@app.command()
def status(
    watch: Annotated[bool, typer.Option("--watch", help="Refresh every second.")] = False,
    numerics: Annotated[
        bool, typer.Option("--numerics", help="Show what the bits of answers depend on, instead of the workers.")
    ] = False,
    every: Annotated[bool, typer.Option("--all", help="Show every worker, also many of one kind.")] = False,
    gateway: Gateway = None,
    context: Context = None,
    namespace: Namespace = None,
    release: ReleaseName = None,
) -> None:
    """Show the workers: state, experts loaded, load, and time spent waiting for experts.

    Exit code: 0 when the cluster can serve requests, 3 when it cannot, 1 when its state cannot be read.
    """
    from services.cli.status import chosen_view
    from services.cli.status import status as run

    if gateway and context:
        fail("--gateway and --context name two clusters: give one of them")
    _check_context(context, namespace, release)
    if context and watch:
        fail("--watch does not work with --context")

    def show() -> bool:
        if context:
            from services.cli.kube.release import Release
            from services.cli.kube.show import show as show_release

            return show_release(Release(context, namespace or "", release or ""), chosen_view(numerics, every), every)
        return run(watch, gateway or "", chosen_view(numerics, every))

    if not _run_on_cluster(show):
        raise typer.Exit(CANNOT_SERVE)


@app.command()
def scale(
    counts: Annotated[list[str], typer.Argument(metavar="ROLE=COUNT...", help="expert=3 attention=2")],
    context: Context = None,
    namespace: Namespace = None,
    release: ReleaseName = None,
    timeout: Annotated[int, typer.Option(min=0, help="Seconds to wait; 0 sets the counts without waiting.")] = 600,
) -> None:
    """Change the number of workers, on this machine or on Kubernetes, and wait until they serve.

    Exit code: 0 when the counts are reached (or with --timeout 0); 1 on a timeout, or when somebody else changes them.
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

    _run_on_cluster(change)


@app.command()
def plan(
    model: Annotated[str, typer.Argument(help="A checkpoint directory, its config.json, flash-chat or flash-lite.")],
    memory: Annotated[float, typer.Option(help="GB that one expert worker has for experts.", min=0.001)] = 80.0,
    attention_memory: Annotated[float, typer.Option(help="GB that one attention worker has.", min=0.001)] = 80.0,
) -> None:
    """Compute how many workers a model needs; nothing is loaded."""
    from services.cli.plan import BadPlan, load_sizes, show

    try:
        show(load_sizes(model), memory, attention_memory)
    except BadPlan as error:
        fail(str(error))


@app.command()
def settings(
    markdown: Annotated[bool, typer.Option("--markdown", help="As docs/settings.md has them.")] = False,
) -> None:
    """Show every CARACAL_* variable, its default and its meaning."""
    from services.cli.settings import markdown as as_markdown
    from services.cli.settings import show

    if markdown:
        print(as_markdown(), end="")
    else:
        show()


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []})
def bench(context: typer.Context) -> None:
    """Run the benchmarks; see `caracal bench --help`. Needs a checkout of the repository."""
    sys.path.append(str(Path(__file__).resolve().parents[2]))  # bench/ is not installed
    try:
        from bench.main import main as run  # type: ignore[import-not-found, unused-ignore]
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] != "bench":
            fail(f"the benchmarks need {error.name}: make test installs it")
        fail("there is no bench/: run `caracal bench` in a checkout of the repository")
    run(context.args)


def fail(message: str) -> NoReturn:
    """Prints one line to stderr and exits with code 1."""
    print(f"caracal: {message}", file=sys.stderr)
    raise typer.Exit(1)


def _check_context(context: str | None, namespace: str | None, release: str | None) -> None:
    """Without this, a command meant for Kubernetes would act on the cluster running here."""
    if (namespace or release) and not context:
        fail("--namespace and --release go with --context")


def _run_on_cluster(run: Callable[[], Result]) -> Result:
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
        raise typer.Exit(130) from None


def main() -> None:
    plain_where_needed()
    app()


if __name__ == "__main__":
    main()
