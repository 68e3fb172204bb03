"""The tensor-parallel ranks' process group of torch.distributed: gloo for CPU tensors, NCCL for CUDA ones.

It uses its own store on disk, without a world and init_process_group. A dead rank closes its connections, and then
every collective fails.
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._C import _distributed_c10d as c10d

from services.attention_worker.model.shard import Shard

CONNECT_TIMEOUT = timedelta(seconds=60)
# Followers wait for rank 0 and rank 0 waits for experts, without a limit here: `Followers.watch` notices a dead rank.
COLLECTIVE_TIMEOUT = timedelta(days=1)


class RankGroup:
    """The group, usable after `connect`. One thread calls collectives, the same and in the same order on every rank."""

    def __init__(self, shard: Shard, folder: Path, device: torch.device) -> None:
        self.shard = shard
        self._folder, self._device = folder, device
        self._group: Any = None

    def connect(self) -> None:
        """Connects the ranks. Raises RuntimeError when one does not come within CONNECT_TIMEOUT."""
        store = c10d.FileStore(str(self._folder / "ranks"), self.shard.size)
        store.set_timeout(CONNECT_TIMEOUT)
        make = _nccl if self._device.type == "cuda" else _gloo
        self._group = make(store, self.shard)

    def gather(self, part: Tensor, width: int) -> Tensor:
        """Concatenates every rank's columns to [rows, width], in the order of the ranks. The call is collective."""
        rows, size, block = len(part), self.shard.size, self.shard.block(width)
        if not rows:
            return part.new_empty((0, width))
        if part.shape[1] < block:
            part = torch.nn.functional.pad(part, (0, block - part.shape[1]))
        parts = part.new_empty((size * rows, block))
        self._group._allgather_base(parts, part).wait()
        whole = parts.view(size, rows, block).transpose(0, 1).reshape(rows, size * block)
        return whole[:, :width].contiguous()

    def all_reduce_min(self, number: int) -> int:
        """The smallest of the ranks' numbers. The call is collective."""
        mine = torch.tensor([[number]], device=self._device)
        return int(self.gather(mine, self.shard.size).min())

    def synchronize(self) -> None:
        """Waits until what was launched has run: on a GPU the host notices an aborted collective no sooner."""
        if self._device.type == "cuda":
            torch.cuda.current_stream(self._device).synchronize()

    def abort(self) -> None:
        """Ends collectives that wait for a dead rank, from any thread. Gloo's end by themselves with the connection."""
        if self._group is not None:
            self._group.abort()

    def broadcast(self, tensor: Tensor) -> None:
        """Copies rank 0's values into every rank's `tensor`. The call is collective."""
        self._group.broadcast(tensor, 0).wait()


def _gloo(store: c10d.Store, shard: Shard) -> Any:
    gloo: Any = c10d.ProcessGroupGloo  # its type stub lacks the options with the device
    options = gloo._Options()
    options._devices = [gloo.create_device(hostname="127.0.0.1")]  # the pod's name need not resolve
    options._timeout = COLLECTIVE_TIMEOUT
    return gloo(store, shard.rank, shard.size, options)


def _nccl(store: c10d.Store, shard: Shard) -> Any:
    from torch.distributed import ProcessGroupNCCL  # only builds for CUDA have it

    options = ProcessGroupNCCL.Options()
    options._timeout = COLLECTIVE_TIMEOUT
    return ProcessGroupNCCL(store, shard.rank, shard.size, options)
