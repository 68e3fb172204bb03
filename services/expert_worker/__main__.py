"""`python -m services.expert_worker`: reads settings, opens the checkpoint, serves the experts it is told to hold."""

from __future__ import annotations

import asyncio

import torch

from services.checkpoint.config import CheckpointError
from services.checkpoint.device import NoSuchDevice
from services.checkpoint.reader import Checkpoint
from services.expert_worker.settings import InvalidSetting, Settings
from services.expert_worker.worker import ExpertWorker
from services.process.lifecycle import refuse, serve_until_signal
from services.process.telemetry import configure_logging


async def serve(settings: Settings, checkpoint: Checkpoint) -> None:
    try:
        worker = ExpertWorker(settings, checkpoint)
    except NoSuchDevice as error:
        refuse(str(error))
    try:
        try:
            worker.start()
        except OSError as error:
            refuse(str(error))
        await serve_until_signal(worker.drain, *worker.background())
    except CheckpointError as error:
        refuse(str(error))
    finally:
        await worker.stop()


def main() -> None:
    try:
        settings = Settings.from_env()
        configure_logging("expert", settings.identity)
        if settings.threads:
            torch.set_num_threads(settings.threads)
        checkpoint = Checkpoint.open(settings.model)
    except (InvalidSetting, CheckpointError) as error:
        refuse(str(error))
    asyncio.run(serve(settings, checkpoint))


if __name__ == "__main__":
    main()
