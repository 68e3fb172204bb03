"""`caracal verify`, once its options are parsed."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from services.cli.verify.clusters import classes_of, running, started
from services.cli.verify.layers import locate
from services.cli.verify.logs import BadLog, Entry, Summary, read, summarise
from services.cli.verify.replay import CannotReplay, Cluster, Replayer, pool_of
from services.cli.verify.report import Report, class_difference
from services.local.settings import LocalSettings
from services.process.lifecycle import ending_signals
from services.process.settings import InvalidSetting
from services.process.telemetry import progress

__all__ = ["BadLog", "CannotReplay", "Options", "Shape", "verify"]


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A cluster to be started. `model`: None = the record's."""

    model: Path | None = None
    attention: int = 1
    expert: int = 1
    tp: int = 1
    link: str = ""
    tls: bool = False
    environment: tuple[tuple[str, str], ...] = ()

    def settings(self, model: Path) -> LocalSettings:
        """Raises InvalidSetting."""
        return LocalSettings(
            model=self.model or model,
            port=0,
            attention=self.attention,
            expert=self.expert,
            tp=self.tp,
            link=self.link,
            tls=self.tls,
            environment=dict(self.environment),
        )


@dataclass(frozen=True, kw_only=True)
class Options:
    """What is verified and how. `shape`: None = the running cluster that `url` names, or that other commands find."""

    logs: Sequence[Path]
    shape: Shape | None = Shape()
    url: str = ""
    passes: int = 1
    concurrency: int = 8
    any_class: bool = False
    score: bool = False
    layers: bool = True
    reference: Path | None = None


def verify(options: Options) -> Report:
    """Replays and compares. Raises BadLog, CannotReplay, InvalidSetting, RedisUnavailable."""
    try:
        return asyncio.run(_until_signal(_verify(options)))
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None


async def _until_signal(work: Coroutine[Any, Any, Report]) -> Report:
    """SIGTERM and SIGHUP end the clusters in order, as Ctrl-C does."""
    task = asyncio.create_task(work)
    for number in ending_signals():
        if number is not signal.SIGINT:  # asyncio.run has that
            asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    return await task


async def _verify(options: Options) -> Report:
    found = summarise(options.logs)
    report = Report(without_tokens=found.without_tokens)
    if not found.total:
        raise BadLog(f"{', '.join(map(str, options.logs))}: no request has anything to compare")
    recorded_model = Path(next(iter(found.headers.values())).directory)
    async with AsyncExitStack() as clusters:
        with progress("starting the cluster") as starting:
            cluster = await clusters.enter_async_context(_target(options, recorded_model, starting))
        await _replay(options, found, cluster, report)
        if report.outcome.first is not None and options.layers:
            await _locate(options, recorded_model, cluster, report)
    return report


def _target(
    options: Options, recorded_model: Path, starting: Callable[[int, int], None]
) -> AbstractAsyncContextManager[Cluster]:
    if options.shape is None:
        return running(options.url)
    if options.shape.model is None and not recorded_model.is_dir():
        raise CannotReplay(f"the record's model, {recorded_model}, is not here: give --model")
    return started(options.shape.settings(recorded_model), starting)


async def _replay(options: Options, found: Summary, cluster: Cluster, report: Report) -> None:
    """Replays the requests of one numerics class after those of another. Raises CannotReplay."""
    served = await classes_of(cluster)
    for name, header in found.headers.items():
        if name in served:
            continue
        other, parts = next(iter(served.items()))
        differs = class_difference(header.numerics, parts)
        if not options.any_class:
            raise CannotReplay(
                f"the record is of numerics class {name}, the cluster of {other} ({differs}): bits may differ;"
                " --any-class compares them anyway"
            )
        report.other_class = f"{name} -> {other} ({differs})"
    classes: list[str | None] = [None] if report.other_class else list(found.headers)
    with progress("replaying") as bar:
        total = found.total * options.passes

        def done() -> None:
            bar(report.outcome.requests, total)

        for numerics_class in classes:
            async with pool_of(cluster, numerics_class) as pool:
                replayer = Replayer(pool, report.outcome, score=options.score)
                for _ in range(options.passes):
                    await replayer.run(_entries(options.logs, numerics_class), options.concurrency, done)


def _entries(logs: Sequence[Path], numerics_class: str | None) -> Iterator[Entry]:
    """The requests of a class that have something to compare, in their order."""
    for entry in read(logs):
        if entry.comparable and numerics_class in (None, entry.recorded.numerics_class):
            yield entry


async def _locate(options: Options, recorded_model: Path, cluster: Cluster, report: Report) -> None:
    first = report.outcome.first
    assert first is not None
    model = options.reference or recorded_model
    if first[1].what in ("token", "log-probability") and not first[1].in_prompt:
        report.not_located = "the logits are those that were recorded: the sampler, or a rule of the request, differs"
        return
    if first[1].what in ("length", "ending"):
        report.not_located = "every logit that was recorded is the same"
        return
    if not model.is_dir():
        report.not_located = f"no layer can be named without the model that was recorded: {model} is not here"
        return
    try:
        settings = Shape(link="grpc").settings(model)
        async with AsyncExitStack() as clusters:
            with progress("starting a cluster of the reference") as starting:
                reference = await clusters.enter_async_context(started(settings, starting))
            report.located = await locate(cluster, reference, *first)
    except (CannotReplay, InvalidSetting) as error:
        report.not_located = f"no layer can be named: {error}"
