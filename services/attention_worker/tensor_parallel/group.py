"""The ranks' group of torch.distributed: gloo for CPU tensors, NCCL for CUDA ones, over a store of its own on disk.

There is no world and no init_process_group. A dead rank closes its connections: every call then fails.
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._C import _distributed_c10d as c10d

from services.attention_worker.model.shard import Shard

CONNECT = timedelta(seconds=60)
# A rank waits for rank 0, and rank 0 for experts, as long as it takes: who is alive is watched elsewhere.
PATIENCE = timedelta(days=1)


class RankGroup:
    """`connect`, then collectives: each belongs to one thread, and all ranks make the same calls in the same order."""

    def __init__(self, shard: Shard, folder: Path, device: torch.device) -> None:
        self.shard = shard
        self._folder, self._device = folder, device
        self._group: Any = None

    def connect(self) -> None:
        """Joins the other ranks. Raises RuntimeError when they do not come."""
        store = c10d.FileStore(str(self._folder / "ranks"), self.shard.size)
        store.set_timeout(CONNECT)
        make = _nccl if self._device.type == "cuda" else _gloo
        self._group = make(store, self.shard)

    def gather(self, part: Tensor, width: int) -> Tensor:
        """[rows, width] from every rank's columns, in the order of the ranks."""
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

    def settle(self) -> None:
        """Waits until what was launched has run: on a GPU the host learns no sooner that a collective was aborted."""
        if self._device.type == "cuda":
            torch.cuda.current_stream(self._device).synchronize()

    def abort(self) -> None:
        """Ends collectives that wait for a dead rank, from any thread. Gloo's end by themselves, with connections."""
        if self._group is not None:
            self._group.abort()

    def broadcast(self, tensor: Tensor) -> None:
        """Rank 0's values into everybody's `tensor`."""
        self._group.broadcast(tensor, 0).wait()


def _gloo(store: c10d.Store, shard: Shard) -> Any:
    gloo: Any = c10d.ProcessGroupGloo  # torch leaves its options untyped
    options = gloo._Options()
    options._devices = [gloo.create_device(hostname="127.0.0.1")]  # the pod's name need not resolve
    options._timeout = PATIENCE
    return gloo(store, shard.rank, shard.size, options)


def _nccl(store: c10d.Store, shard: Shard) -> Any:
    from torch.distributed import ProcessGroupNCCL  # only builds for CUDA have it

    options = ProcessGroupNCCL.Options()
    options._timeout = PATIENCE
    return ProcessGroupNCCL(store, shard.rank, shard.size, options)
