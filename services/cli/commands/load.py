"""`caracal bench serve`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from services.cli.options import (
    check_readable,
    fail,
    finite,
    gateway_address,
    header_value,
    on_cluster,
    option,
    usable_url,
    usage_error,
)

SEVERAL = ("--goodput", "--header", "--metadata")  # options that take several words, as vLLM's do

BaseUrl = Annotated[
    str | None,
    option("--base-url", "URL of the server; default: CARACAL_URL, or the cluster running here.", usable_url),
]
KEY_VARIABLES = ["CARACAL_API_KEY", "OPENAI_API_KEY"]


class ServeCommand(TyperCommand):
    """Takes `--goodput ttft:200 tpot:50` for `--goodput ttft:200 --goodput tpot:50`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        repeated: list[str] = []
        option = ""
        for word in args:
            if word.startswith("--"):
                option = word if word in SEVERAL else ""
            elif option and repeated[-1] != option:
                repeated.append(option)
            repeated.append(word)
        return super().parse_args(ctx, repeated)


def serve(
    base_url: BaseUrl = None,
    host: Annotated[str, typer.Option(help="Instead of --base-url, with --port.")] = "",
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="8000 if only --host is given.")] = None,
    backend: Annotated[str, typer.Option(help="openai or vllm (completions), or openai-chat.")] = "openai",
    endpoint: Annotated[str, typer.Option(help="Path of the API; default: that of --backend.")] = "",
    model: Annotated[str, typer.Option(help="Default: the first of /v1/models.")] = "",
    api_key: Annotated[
        str, typer.Option(envvar=KEY_VARIABLES, help="Sent as a bearer token.", callback=header_value)
    ] = "",
    header: Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE...", help="Headers of each request.")] = None,
    extra_body: Annotated[str, typer.Option(help="JSON object of further fields of each request.")] = "",
    dataset_name: Annotated[
        str, typer.Option(help="random, sharegpt or custom (JSONL with prompt or messages).")
    ] = "random",
    dataset_path: Annotated[Path | None, typer.Option(help="File of sharegpt or custom.")] = None,
    num_prompts: Annotated[int, typer.Option(min=1, help="Requests to send.")] = 1000,
    input_len: Annotated[
        int, typer.Option("--random-input-len", "--input-len", min=1, help="Tokens of a random prompt.")
    ] = 1024,
    output_len: Annotated[
        int | None,
        typer.Option(
            *("--random-output-len", "--output-len", "--sharegpt-output-len", "--custom-output-len"),
            min=1,
            help="Tokens asked for; default: 128 (random), those of the answer (sharegpt), 256 (custom).",
        ),
    ] = None,
    range_ratio: Annotated[
        float, typer.Option("--random-range-ratio", help="Lengths vary by this share, up and down.")
    ] = 0.0,
    max_concurrency: Annotated[int | None, typer.Option(min=1, help="Most requests open at one time.")] = None,
    request_rate: Annotated[float, typer.Option(help="Requests per second; inf = all at once.")] = math.inf,
    burstiness: Annotated[float, typer.Option(help="1 = a Poisson process; less = bursts; more = even.")] = 1.0,
    num_warmups: Annotated[int, typer.Option(min=0, help="Requests before the run.")] = 1,
    seed: Annotated[int, typer.Option(help="Of prompts and of arrival times.")] = 0,
    ignore_eos: Annotated[bool, typer.Option("--ignore-eos", help="Ask for answers of full length.")] = False,
    temperature: Annotated[float, typer.Option(min=0, help="0 = greedy.", callback=finite)] = 0.0,
    top_p: Annotated[float | None, typer.Option(callback=finite)] = None,
    top_k: Annotated[int | None, typer.Option()] = None,
    percentile_metrics: Annotated[str, typer.Option(help="Of ttft, tpot, itl, e2el.")] = "ttft,tpot,itl,e2el",
    metric_percentiles: Annotated[str, typer.Option(help="Like 50,90,99.")] = "99",
    goodput: Annotated[
        list[str] | None, typer.Option(metavar="METRIC:MS...", help="Objectives: ttft, tpot, e2el; in milliseconds.")
    ] = None,
    save_result: Annotated[bool, typer.Option("--save-result", help="Write the result as JSON.")] = False,
    save_detailed: Annotated[bool, typer.Option("--save-detailed", help="With every request's figures.")] = False,
    result_dir: Annotated[Path, typer.Option(help="Folder of the result.")] = Path(),
    result_filename: Annotated[str, typer.Option(help="Default: LABEL-RATEqps-MODEL-DATE.json.")] = "",
    label: Annotated[str, typer.Option(help="Start of the file's name; default: the backend.")] = "",
    metadata: Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE...", help="Saved with the result.")] = None,
    disable_tqdm: Annotated[bool, typer.Option("--disable-tqdm", "--no-progress", help="No progress bar.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of the report.")] = False,
) -> None:
    """Load an OpenAI-compatible server and report throughput and latencies; options are those of `vllm bench serve`.

    Exit code: 0, or 1 when no request succeeded, or 130 after Ctrl-C, which prints the report so far.
    """
    _run(**locals())


def _run(**given: Any) -> None:
    try:
        from services.cli.load.client import ServerError
        from services.cli.load.command import Saving, bench_serve
    except ModuleNotFoundError as error:
        if error.name != "aiohttp":
            raise
        fail("caracal bench serve needs aiohttp: pip install 'caracal[load]'")
    from services.cli.load import settings as load

    try:
        if given["backend"] not in load.BACKENDS:
            raise load.BadOption(f"--backend is {given['backend']!r}: must be {', '.join(load.BACKENDS)}")
        sampling = {"temperature": given["temperature"], "top_p": given["top_p"], "top_k": given["top_k"]}
        body = {name: value for name, value in sampling.items() if value is not None}
        body |= ({"ignore_eos": True} if given["ignore_eos"] else {}) | load.parse_body(given["extra_body"])
        requests = load.Load(
            base_url=_address(given["base_url"], given["host"], given["port"]),
            endpoint="/" + (given["endpoint"] or load.BACKENDS[given["backend"]]).lstrip("/"),
            headers=load.parse_headers(given["header"] or []),
            body=body,
            rate=given["request_rate"],
            warmups=given["num_warmups"],
            **{name: given[name] for name in ("model", "api_key", "max_concurrency", "burstiness", "seed")},
        )
        dataset = load.Dataset(
            name=given["dataset_name"],
            path=given["dataset_path"],
            **{name: given[name] for name in ("num_prompts", "input_len", "output_len", "range_ratio", "seed")},
        )
        if dataset.path is not None:
            check_readable("--dataset-path", dataset.path)
        reporting = load.Reporting(
            metrics=load.parse_metrics(given["percentile_metrics"]),
            percentiles=load.parse_percentiles(given["metric_percentiles"]),
            goodput=load.parse_goodput(given["goodput"] or []),
        )
        saving = Saving(
            save=given["save_result"] or given["save_detailed"],
            detailed=given["save_detailed"],
            folder=given["result_dir"],
            name=given["result_filename"],
            label=given["label"],
            backend="openai-chat" if requests.chat else given["backend"],
            metadata=load.parse_assignments("--metadata", given["metadata"] or []),
        )
        progress = not given["disable_tqdm"]
        code = bench_serve(requests, dataset, reporting, saving, as_json=given["as_json"], progress=progress)
    except load.BadOption as error:
        usage_error(str(error))
    except ServerError as error:
        fail(str(error))
    except OSError as error:
        fail(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    raise typer.Exit(code)


def _address(base_url: str | None, host: str, port: int | None) -> str:
    """The server's URL, from what was given, or of the cluster running here."""
    from services.cli.gateway_url import gateway_url
    from services.process.addresses import authority

    if base_url and (host or port):
        usage_error("--base-url and --host or --port name two servers: give one of them")
    if host or port:
        return f"http://{authority(host or '127.0.0.1', port or 8000)}"
    return gateway_url(on_cluster(lambda: gateway_address(base_url)))
