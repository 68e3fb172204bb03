"""`python -m services.attention_worker`: reads settings, loads the model, serves until a signal."""

from __future__ import annotations

import asyncio

import torch

from services.attention_worker.loading import Loaded, load
from services.attention_worker.settings import BadSetting, Settings
from services.attention_worker.worker import AttentionWorker
from services.checkpoint import CheckpointError
from services.lifecycle import refuse, serve_until_signal
from services.telemetry import configure_logging


async def serve(settings: Settings, loaded: Loaded) -> None:
    worker = AttentionWorker(settings, loaded)
    try:
        try:
            await worker.start()
        except OSError as error:
            refuse(str(error))
        await serve_until_signal(worker.drain, *worker.background())
    finally:
        await worker.stop()


def main() -> None:
    try:
        settings = Settings.from_env()
        configure_logging("attention", settings.identity)
        if settings.threads:
            torch.set_num_threads(settings.threads)
        loaded = load(settings)
    except (BadSetting, CheckpointError) as error:
        refuse(str(error))
    asyncio.run(serve(settings, loaded))


if __name__ == "__main__":
    main()
