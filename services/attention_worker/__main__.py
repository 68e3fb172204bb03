"""`python -m services.attention_worker`: reads settings, loads the model, serves until a signal."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable

import structlog
import torch
from caracal_kernels import KernelsUnavailable

from services.attention_worker.loading import Loaded, Servable, open_model
from services.attention_worker.settings import AttentionSettings
from services.attention_worker.tensor_parallel.followers import Followers, RankLost
from services.attention_worker.tensor_parallel.rank0 import load_rank0
from services.attention_worker.weights_scrub import WeightsChanged
from services.attention_worker.worker import AttentionWorker
from services.checkpoint.errors import CheckpointError
from services.process import tracing
from services.process.garbage import keep_what_is_imported, keep_what_is_made
from services.process.lifecycle import exit_with_error, serve_until_signal
from services.process.open_files import raise_open_files
from services.process.settings import InvalidSetting
from services.process.start_times import StartTimes
from services.process.telemetry import configure_logging
from services.transport.native_extension import unavailable

# The engine's thread comes back from native code and waits for the GIL at most so long. Python's 5 ms are a whole step.
GIL_SWITCH_S = 0.0005

log = structlog.get_logger(__name__)


async def serve(settings: AttentionSettings, loaded: Loaded[Servable], followers: Followers, times: StartTimes) -> None:
    worker = AttentionWorker(settings, loaded, followers.processes)
    try:
        try:
            await worker.start()
        except OSError as error:
            exit_with_error(str(error))
        times.reached("listening")
        log.info("started", **times.parts)
        await serve_until_signal(worker.drain, *worker.background(), followers.watch())
    finally:
        await worker.stop()


def as_it_is(model: Servable) -> Servable:
    return model


def main(adapt: Callable[[Servable], Servable] = as_it_is) -> None:
    """Serves until a signal. `adapt`: what is served instead of a model, for benchmarks."""
    times = StartTimes()
    keep_what_is_imported()
    try:
        settings = AttentionSettings.from_env()
        configure_logging("attention", settings.identity, settings.log_level)
        tracing.configure("attention", settings.identity)
        raise_open_files()
        if settings.kernel_threads:
            torch.set_num_threads(settings.kernel_threads)
        sys.setswitchinterval(GIL_SWITCH_S)
        if settings.link == "native" and (why := unavailable(settings.tls_files is not None)):
            raise settings.invalid("link", settings.link, why)
        opened = open_model(settings)
        with Followers(settings.tp) as followers:
            found = load_rank0(opened, followers)
            loaded = Loaded(adapt(found.model), found.limits, found.numerics, found.weights, found.regions)
            keep_what_is_made()
            times.reached("model")
            asyncio.run(serve(settings, loaded, followers, times))
    except (InvalidSetting, CheckpointError, KernelsUnavailable, RankLost, WeightsChanged) as error:
        exit_with_error(str(error))
    finally:
        tracing.shutdown()


if __name__ == "__main__":
    main()
