"""The experts a worker holds: any set of (layer, expert), changed while it serves.

Legend: R rows, P (row, expert) pairs ascending by (expert, row), D hidden, F inner width, G experts with a pair.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from itertools import groupby

import torch
from caracal_proto.tensors import raw_bytes
from torch import Tensor

from services.checkpoint.config import CheckpointError
from services.checkpoint.device import CPU
from services.checkpoint.reader import Checkpoint, ExpertWeights, load_expert
from services.checkpoint.staging import Staging
from services.expert_worker import grouped

GOLDEN_STEP = 0x9E3779B1


class NotLoadedError(LookupError):
    """Experts that were asked for and are not here."""

    def __init__(self, layer: int, experts: list[int]) -> None:
        super().__init__(f"experts {', '.join(map(str, experts[:8]))} of layer {layer} are not loaded here")


Read = Callable[[int, int], ExpertWeights]


class Experts:
    """Weights, and the one computation over them. `load` and `drop` may run beside `compute`.

    With `keep_fp8`, experts that are stored in fp8 are loaded and computed so: half the memory, other bits.
    """

    def __init__(
        self, checkpoint: Checkpoint, dtype: torch.dtype, device: torch.device = CPU, keep_fp8: bool = False
    ) -> None:
        config = checkpoint.config
        self.dtype, self.device, self.staging = dtype, device, Staging(device)
        self.num_layers, self.num_ffn, self.hidden = config.num_layers, config.n_routed_experts, config.hidden_size
        self._read: Read = lambda layer, expert: load_expert(checkpoint, layer, expert, dtype, self.staging, keep_fp8)
        self._weights: list[dict[int, ExpertWeights]] = [{} for _ in range(config.num_layers)]
        self._digests: dict[tuple[int, int], int] = {}
        self._loading = threading.Lock()

    @property
    def loaded(self) -> frozenset[tuple[int, int]]:
        """(layer, expert) of everything that is here."""
        return frozenset(self._digests.copy())

    def load(self, layer: int, expert: int) -> int:
        """Reads an expert, warms it with the golden vector, and only then lets it be used; returns the answer's digest.

        The digest is the same on every worker of one numerics class. Raises CheckpointError, also for an expert that
        the model does not have and for one whose golden answer is not finite. Loading what is here reads nothing.
        """
        if not (0 <= layer < self.num_layers and 0 <= expert < self.num_ffn):
            raise CheckpointError(f"the model has no expert {expert} of layer {layer}")
        with self._loading:
            if (layer, expert) not in self._digests:
                weights = self._read(layer, expert)
                digest = golden_digest(weights, self.dtype, layer, expert)
                self._weights[layer][expert] = weights
                self._digests[layer, expert] = digest
            return self._digests[layer, expert]

    def drop(self, layer: int, expert: int) -> None:
        """Lets an expert go; a computation that uses it ends first."""
        with self._loading:
            self._weights[layer].pop(expert, None)
            self._digests.pop((layer, expert), None)

    @torch.inference_mode()
    def compute(self, layer: int, x_RD: Tensor, row_A: Tensor, expert_A: Tensor) -> Tensor:
        """[P, D], where x_RD lies: each pair's expert on its row, unweighted. Assignments are on the CPU.

        Raises NotLoadedError, with nothing computed.
        """
        loaded = self._weights[layer]
        groups = [(expert, sum(1 for _ in run)) for expert, run in groupby(expert_A.tolist())]
        weights = [loaded.get(expert) for expert, _ in groups]
        there = [weight for weight in weights if weight is not None]
        if len(there) < len(groups):
            raise NotLoadedError(
                layer, [expert for (expert, _), weight in zip(groups, weights, strict=True) if not weight]
            )
        y_AD = grouped.compute(x_RD.to(self.device), row_A.to(self.device), [count for _, count in groups], there)
        return y_AD.to(x_RD.device)


def golden_row(hidden: int, dtype: torch.dtype) -> Tensor:
    """[1, D] in (-1, 1): the same values everywhere, from integer arithmetic alone."""
    steps = torch.arange(1, hidden + 1, dtype=torch.int64) * GOLDEN_STEP % 2**24
    return (steps.to(torch.float32) / 2**23 - 1).to(dtype)[None]


def golden_digest(weights: ExpertWeights, dtype: torch.dtype, layer: int, expert: int) -> int:
    """64 bits of SHA-256 over the expert's answer to the golden row. Raises CheckpointError when that is not finite."""
    device = weights.down_DF.device
    x_RD = golden_row(weights.down_DF.shape[0], dtype).to(device)
    y_AD = grouped.compute(x_RD, torch.zeros(1, dtype=torch.int32, device=device), [1], [weights])
    if not bool(torch.isfinite(y_AD).all()):
        raise CheckpointError(
            f"expert {expert} of layer {layer} answers the golden vector with values that are not finite"
        )
    return int.from_bytes(hashlib.sha256(raw_bytes(y_AD.cpu())).digest()[:8], "little")
