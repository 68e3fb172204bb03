"""`python -m services.expert_worker`: reads settings, opens the checkpoint, serves the experts placed on it."""

from __future__ import annotations

import asyncio

import structlog
import torch
from caracal_kernels import KernelsUnavailable

from services.checkpoint.device import NoSuchDevice
from services.checkpoint.errors import CheckpointError
from services.checkpoint.reader import Checkpoint
from services.expert_worker.settings import ExpertSettings
from services.expert_worker.worker import ExpertWorker
from services.process import tracing
from services.process.garbage import keep_what_is_imported, keep_what_is_made
from services.process.large_buffers import give_back_large_buffers
from services.process.lifecycle import exit_with_error, serve_until_signal
from services.process.open_files import raise_open_files
from services.process.settings import InvalidSetting
from services.process.start_times import StartTimes
from services.process.telemetry import configure_logging
from services.weights.opening import open_checkpoint

log = structlog.get_logger(__name__)


async def serve(settings: ExpertSettings, checkpoint: Checkpoint, times: StartTimes) -> None:
    try:
        worker = ExpertWorker(settings, checkpoint)
    except (NoSuchDevice, KernelsUnavailable) as error:
        exit_with_error(str(error))
    try:
        try:
            worker.start()
        except OSError as error:
            exit_with_error(str(error))
        times.reached("listening")
        log.info("started", **times.parts)
        await serve_until_signal(worker.drain, *worker.background())
    except CheckpointError as error:
        exit_with_error(str(error))
    finally:
        await worker.stop()


def main() -> None:
    times = StartTimes()
    keep_what_is_imported()
    try:
        settings = ExpertSettings.from_env()
        configure_logging("expert", settings.identity, settings.log_level)
        tracing.configure("expert", settings.identity)
        raise_open_files()
        if settings.kernel_threads:
            torch.set_num_threads(settings.kernel_threads)
        checkpoint = open_checkpoint(settings.model)
    except (InvalidSetting, CheckpointError, KernelsUnavailable) as error:
        exit_with_error(str(error))
    keep_what_is_made()
    give_back_large_buffers()
    times.reached("checkpoint")
    try:
        asyncio.run(serve(settings, checkpoint, times))
    finally:
        tracing.shutdown()


if __name__ == "__main__":
    main()
