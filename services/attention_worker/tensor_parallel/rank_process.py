"""`python -m services.attention_worker.tensor_parallel.rank_process RANK FD FOLDER`: a rank above 0, started by rank 0.

It reads rank 0's settings, loads its part of the model, then takes part in every step that rank 0 sends over the
channel. It ends when rank 0 closes the channel, and with an error when a collective fails; rank 0 notices both.
"""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import structlog
import torch

from services.attention_worker.engine.kv_cache import HostPages
from services.attention_worker.loading import open_model
from services.attention_worker.model.shard import Shard
from services.attention_worker.settings import AttentionSettings
from services.attention_worker.tensor_parallel.channel import Channel, ChannelClosed
from services.attention_worker.tensor_parallel.dispatchers import FollowerDispatcher, StepAborted
from services.attention_worker.tensor_parallel.group import RankGroup
from services.attention_worker.tensor_parallel.rank0 import shared_ranks
from services.attention_worker.tensor_parallel.ready_frame import ready_frame
from services.attention_worker.tensor_parallel.step_codec import unpack
from services.checkpoint.errors import CheckpointError
from services.checkpoint.scrub import Scrub
from services.process.cores import run_on
from services.process.lifecycle import exit_with_error
from services.process.settings import InvalidSetting
from services.process.telemetry import configure_logging

log = structlog.get_logger(__name__)


@torch.inference_mode()
def follow(settings: AttentionSettings, shard: Shard, channel: Channel, folder: Path) -> None:
    """Runs steps until the channel ends. Raises CheckpointError, InvalidSetting, or a collective's RuntimeError."""
    opened = open_model(settings, shard.rank)
    group = RankGroup(shard, folder, opened.device)
    loaded = opened.load(shared_ranks(opened.config, group))
    channel.send(ready_frame(loaded.numerics.name, opened.checkpoint.checksums))
    group.connect()
    caches = loaded.model.new_cache(group.all_reduce_min(loaded.limits.num_pages), loaded.limits.page_size)
    host = HostPages(caches, loaded.limits.host_pages)
    dispatcher = FollowerDispatcher(group)
    # Rank 0 sees the channel end, and the worker with all its ranks ends.
    scrub = Scrub(loaded.regions, lambda _: channel.close_down(), settings.scrub_s)
    scrub.start()
    log.info("rank is ready", rank=shard.rank, of=shard.size)
    while True:
        try:
            step, rows_T = unpack(channel.receive())
            host.copy(step.moves_M3, step.received_RB)
            if rows_T is None:
                loaded.model.forward(step, caches, dispatcher)
            else:
                loaded.model.draft(step, rows_T, caches)
        except StepAborted:
            continue
        except ChannelClosed:
            scrub.stop()
            return


def main() -> None:
    rank, descriptor, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    try:
        settings = AttentionSettings.from_env()
        configure_logging("attention", f"{settings.identity}.{rank}", settings.log_level)
        run_on(settings.core_set)
        if settings.kernel_threads:
            torch.set_num_threads(settings.kernel_threads)
        follow(settings, Shard(rank, settings.tp), Channel(socket.socket(fileno=descriptor)), folder)
    except (InvalidSetting, CheckpointError) as error:
        exit_with_error(str(error))


if __name__ == "__main__":
    main()
