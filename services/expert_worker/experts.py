"""The experts that a worker has loaded: any set of (layer, expert), which may change while it serves.

Legend: R rows, A (row, expert) assignments ascending by (expert, row), D hidden, F inner width, L layers, E FFN
experts of a layer.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Sequence
from functools import cache, partial
from itertools import groupby
from typing import Protocol

import numpy as np
import torch
from caracal_kernels import outputs_of
from caracal_proto.tensors import raw_bytes
from numpy.typing import NDArray
from torch import Tensor

from services.checkpoint.device import CPU
from services.checkpoint.errors import CheckpointError
from services.checkpoint.packing import load_packed_expert
from services.checkpoint.reader import Checkpoint, ExpertWeights, load_expert
from services.checkpoint.scrub import Region, regions_of
from services.checkpoint.staging import Staging
from services.expert_worker import grouped

GOLDEN_STEP = 0x9E3779B1


class NotLoadedError(LookupError):
    """A call names experts that are not loaded here."""

    def __init__(self, layer: int, experts: list[int]) -> None:
        super().__init__(f"experts {', '.join(map(str, experts[:8]))} of layer {layer} are not loaded here")


Read = Callable[[int, int], ExpertWeights]


class Mirror(Protocol):
    """Who else keeps the weights of loaded experts that are computed in the model's dtype."""

    def set(self, layer: int, expert: int, gate_up: Tensor, down: Tensor, /) -> None: ...

    def drop(self, layer: int, expert: int, /) -> None: ...


class Experts:
    """Expert weights and the computation over them. `load` and `drop` may run while another thread is in `compute`.

    With `keep_fp8`, experts that the checkpoint stores in fp8 are computed in fp8: other result bits. Without, the
    compiled CPU kernels may keep them in fp8 too, with the bits of the dequantized ones.
    """

    def __init__(
        self, checkpoint: Checkpoint, dtype: torch.dtype, device: torch.device = CPU, keep_fp8: bool = False
    ) -> None:
        config = checkpoint.config
        self.dtype, self.device, self.staging = dtype, device, Staging(device)
        self.num_layers, self.num_ffn, self.hidden = config.num_layers, config.n_routed_experts, config.hidden_size
        self.choices = min(config.moe_topk, config.n_routed_experts)  # of a row
        load: Callable[..., ExpertWeights] = partial(load_expert, keep_fp8=True) if keep_fp8 else load_packed_expert
        self._read: Read = lambda layer, expert: load(checkpoint, layer, expert, dtype, self.staging)
        self._checkpoint = checkpoint
        self._weights: list[dict[int, ExpertWeights]] = [{} for _ in range(config.num_layers)]
        self._digests: dict[tuple[int, int], int] = {}
        self.regions: dict[tuple[int, int], Region] = {}  # the weights in memory
        self.repaired = 0  # experts whose weights had changed in memory
        self._loaded_LE = np.zeros((config.num_layers, config.n_routed_experts), np.bool_)
        self._loading = threading.Lock()
        self._mirrors: list[Mirror] = []

    @property
    def loaded(self) -> frozenset[tuple[int, int]]:
        """The (layer, expert) of all loaded experts."""
        return frozenset(self._digests.copy())

    @property
    def loaded_LE(self) -> NDArray[np.bool_]:
        """Which experts are loaded; a copy."""
        return self._loaded_LE.copy()

    def load(self, layer: int, expert: int) -> int:
        """Reads an expert, computes the golden row with it, then makes it usable; returns its digest.

        The digest is of the output and of all bytes that were read: the same on every worker of one numerics class. An
        expert that is loaded already is not read again. Raises CheckpointError, also for an expert that the model does
        not have or whose output is not finite.
        """
        if not (0 <= layer < self.num_layers and 0 <= expert < self.num_ffn):
            raise CheckpointError(f"the model has no expert {expert} of layer {layer}")
        with self._loading:
            if (layer, expert) not in self._digests:
                weights, digest = self._read_again(layer, expert)
                self._use(layer, expert, weights)
                self._digests[layer, expert] = digest
                self._loaded_LE[layer, expert] = True
            return self._digests[layer, expert]

    def repair(self, region: Region) -> None:
        """Reads an expert again whose weights have changed in memory. Raises CheckpointError when it is another now."""
        with self._loading:
            key = next((key for key, one in self.regions.items() if one is region), None)
            if key is None:
                return  # it was dropped, or read again
            weights, digest = self._read_again(*key)
            if digest != self._digests[key]:
                raise CheckpointError(f"{region.name} has changed in memory, and in the checkpoint since it was read")
            self._use(*key, weights)
            self.repaired += 1

    def answers_golden_row(self, layer: int, expert: int) -> bool:
        """Whether an expert answers the golden row as when it was loaded; one that is loaded no more does."""
        weights, digest = self._weights[layer].get(expert), self._digests.get((layer, expert))
        if weights is None or digest is None:
            return True
        try:
            again = golden_digest(weights, self.dtype, layer, expert, self._checksums(layer, expert))
        except CheckpointError:  # the output is not finite
            return False
        return again == digest

    def _read_again(self, layer: int, expert: int) -> tuple[ExpertWeights, int]:
        weights = self._read(layer, expert)
        return weights, golden_digest(weights, self.dtype, layer, expert, self._checksums(layer, expert))

    def _use(self, layer: int, expert: int, weights: ExpertWeights) -> None:
        (self.regions[layer, expert],) = regions_of([(f"expert {expert} of layer {layer}", weights)])
        self._show(layer, expert, weights)
        self._weights[layer][expert] = weights

    def tensors(self, layer: int, expert: int) -> list[tuple[str, str, int]]:
        """(file, tensor, CRC-32) of what an expert's weights were read from. Raises NotLoadedError, CheckpointError."""
        if (layer, expert) not in self._digests:
            raise NotLoadedError(layer, [expert])
        names = [name for name, _ in self._checkpoint.expert_names(layer, expert)]
        files = [self._checkpoint.file_of(name) for name in names]
        return list(zip(files, names, self._checksums(layer, expert), strict=True))

    def keep_checksums(self) -> bool:
        """Writes the checksums of what was read beside the checkpoint; returns whether they are there now."""
        return self._checkpoint.keep_checksums()

    def _checksums(self, layer: int, expert: int) -> list[int]:
        return [self._checkpoint.checksum(name, rows) for name, rows in self._checkpoint.expert_names(layer, expert)]

    def drop(self, layer: int, expert: int) -> None:
        """Unloads an expert, if it is loaded; its memory is freed once no running computation uses it."""
        with self._loading:
            if self._digests.pop((layer, expert), None) is None:
                return
            self._weights[layer].pop(expert, None)
            self.regions.pop((layer, expert), None)
            self._loaded_LE[layer, expert] = False
            for mirror in self._mirrors:
                mirror.drop(layer, expert)

    def mirror(self, mirror: Mirror) -> None:
        """Keeps a mirror up to date from now on."""
        with self._loading:
            self._mirrors.append(mirror)
            for layer, expert in self._digests:
                self._show(layer, expert, self._weights[layer][expert])

    def _show(self, layer: int, expert: int, weights: ExpertWeights) -> None:
        if weights.gate_up_scale is None:
            for mirror in self._mirrors:
                mirror.set(layer, expert, weights.gate_up_2FD, weights.down_DF)

    @torch.inference_mode()
    def compute(self, layer: int, x_RD: Tensor, row_A: Tensor, expert_A: Tensor) -> Tensor:
        """Applies each assignment's expert to its row, unweighted: [A, D] on x_RD's device. Assignments are on the CPU.

        Raises NotLoadedError before anything is computed.
        """
        loaded = self._weights[layer]
        groups = [(expert, sum(1 for _ in run)) for expert, run in groupby(expert_A.tolist())]
        weights = [loaded.get(expert) for expert, _ in groups]
        found = [weight for weight in weights if weight is not None]
        if len(found) < len(groups):
            raise NotLoadedError(
                layer, [expert for (expert, _), weight in zip(groups, weights, strict=True) if not weight]
            )
        y_AD = grouped.compute(x_RD.to(self.device), row_A.to(self.device), [count for _, count in groups], found)
        return y_AD.to(x_RD.device)


@cache
def golden_row(hidden: int, dtype: torch.dtype) -> Tensor:
    """The golden row, [1, D] in (-1, 1). Integer arithmetic makes it the same on every machine."""
    steps = torch.arange(1, hidden + 1, dtype=torch.int64) * GOLDEN_STEP % 2**24
    return (steps.to(torch.float32) / 2**23 - 1).to(dtype)[None]


def golden_digest(
    weights: ExpertWeights, dtype: torch.dtype, layer: int, expert: int, checksums: Sequence[int] = ()
) -> int:
    """64 bits of SHA-256 over the expert's output for the golden row and the checksums of its tensors.

    Raises CheckpointError when the output is not finite.
    """
    device = weights.down_DF.device
    x_RD = golden_row(outputs_of(weights.down_DF), dtype).to(device)
    y_AD = grouped.compute(x_RD, torch.zeros(1, dtype=torch.int32, device=device), [1], [weights])
    if not bool(torch.isfinite(y_AD).all()):
        raise CheckpointError(
            f"expert {expert} of layer {layer} answers the golden row with values that are not finite"
        )
    digest = hashlib.sha256(raw_bytes(y_AD.cpu()) + np.array(checksums, "<u4").tobytes())
    return int.from_bytes(digest.digest()[:8], "little")
