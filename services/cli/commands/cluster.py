"""`caracal up`, `caracal serve` and `caracal scale`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from services.attention_worker.settings import AttentionSettings
from services.cli.options import AsJson, Context, Namespace, ReleaseName, check_context, on_cluster, usage_error
from services.local.settings import LocalSettings
from services.process.settings import InvalidSetting, rule_of

PASSED_ON = (
    *("host", "dtype", "device", "tp", "kv_pages", "kv_dtype", "kv_host_gb", "max_itl_ms", "draft", "link"),
    "dispatch_dtype",
    "generation_config",
)
FROM_ROUTERS = ("record",)


def _setting(name: str, *aliases: str) -> Any:
    """An option for a setting; those that workers have as well are taken from their variables if not given."""
    help = rule_of(LocalSettings, name).help
    variable = AttentionSettings.label(name) if name in (*PASSED_ON, *FROM_ROUTERS) else None
    names = (LocalSettings.label(name), *aliases)
    return typer.Option(*names, help=f"{help[0].upper()}{help[1:]}.", envvar=variable)


ModelDirectory = Annotated[
    Path | None, typer.Argument(metavar="MODEL_DIR", help="Checkpoint directory, the same as --model.")
]


def up(
    model_dir: ModelDirectory = None,
    attention: Annotated[int, _setting("attention")] = LocalSettings.attention,
    expert: Annotated[int, _setting("expert")] = LocalSettings.expert,
    spares: Annotated[int, _setting("spares")] = LocalSettings.spares,
    model: Annotated[Path, _setting("model")] = LocalSettings.model,
    host: Annotated[str, _setting("host")] = LocalSettings.host,
    port: Annotated[int, _setting("port")] = LocalSettings.port,
    dtype: Annotated[str, _setting("dtype")] = LocalSettings.dtype,
    device: Annotated[str, _setting("device")] = LocalSettings.device,
    tp: Annotated[int, _setting("tp", "--tensor-parallel-size")] = LocalSettings.tp,
    kv_pages: Annotated[int, _setting("kv_pages")] = LocalSettings.kv_pages,
    kv_host_gb: Annotated[float, _setting("kv_host_gb")] = LocalSettings.kv_host_gb,
    max_itl_ms: Annotated[float, _setting("max_itl_ms")] = LocalSettings.max_itl_ms,
    draft: Annotated[int, _setting("draft")] = LocalSettings.draft,
    link: Annotated[str, _setting("link")] = LocalSettings.link,
    dispatch_dtype: Annotated[str, _setting("dispatch_dtype")] = LocalSettings.dispatch_dtype,
    kv_dtype: Annotated[str, _setting("kv_dtype")] = LocalSettings.kv_dtype,
    generation_config: Annotated[str, _setting("generation_config")] = LocalSettings.generation_config,
    record: Annotated[str, _setting("record")] = LocalSettings.record,
    tls: Annotated[bool, _setting("tls")] = LocalSettings.tls,
    allow_plain_p2p: Annotated[bool, _setting("allow_plain_p2p")] = LocalSettings.allow_plain_p2p,
) -> None:
    """Start a cluster on this machine; Ctrl-C stops it. `caracal serve` is the same."""
    from services.cli.up import up as run

    if model_dir is not None and model not in (LocalSettings.model, model_dir):
        usage_error(f"two models are given, {model_dir} and --model {model}")
    try:
        settings = LocalSettings(
            model=model_dir or model,
            host=host,
            port=port,
            attention=attention,
            expert=expert,
            spares=spares,
            dtype=dtype,
            device=device,
            tp=tp,
            kv_pages=kv_pages,
            kv_host_gb=kv_host_gb,
            max_itl_ms=max_itl_ms,
            draft=draft,
            link=link,
            dispatch_dtype=dispatch_dtype,
            kv_dtype=kv_dtype,
            generation_config=generation_config,
            record=record,
            tls=tls,
            allow_plain_p2p=allow_plain_p2p,
        )
    except InvalidSetting as error:
        usage_error(str(error))
    run(settings)


def scale(
    counts: Annotated[list[str], typer.Argument(metavar="ROLE=COUNT...", help="expert=3 attention=2")],
    context: Context = None,
    namespace: Namespace = None,
    release: ReleaseName = None,
    timeout: Annotated[int, typer.Option(min=0, help="Seconds to wait; 0 sets the counts without waiting.")] = 600,
    as_json: AsJson = False,
) -> None:
    """Change the number of workers, on this machine or on Kubernetes, and wait until they serve.

    Exit code: 0 when the counts are reached (or with --timeout 0); 1 on a timeout, or when somebody else changes them.
    """
    from services.cli.scale import Outcome, parse_counts
    from services.cli.scale import scale as run
    from services.local.settings import check_count

    check_context(context, namespace, release)
    check = check_count
    if context:
        from services.cli.kube.release import check_pods as check
    try:
        wanted = parse_counts(counts, check)
    except InvalidSetting as error:
        usage_error(str(error))

    def change() -> Outcome:
        if context:
            from services.cli.kube.release import Release

            return Release(context, namespace or "", release or "").scale(wanted, timeout)
        return run(wanted, timeout)

    on_cluster(change).show(as_json)
