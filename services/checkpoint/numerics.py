"""The numerics class: the one place where it is decided whether two workers' answers are interchangeable bit for bit.

A row's bits depend on the row, its position and what is named here, and on nothing else: not on the batch, the number
of workers or ranks, a retry or a replay. So sequences move and experts are replaced within one class only.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass

import torch
from caracal_kernels import cpu_backend, probe

from services.checkpoint.reader import Checkpoint


@dataclass(frozen=True, slots=True, kw_only=True)
class Numerics:
    """Everything that decides bits, as words that people can compare: `caracal status --numerics` prints them."""

    kernels: str  # which bodies of the ops run, on which device
    probe: str  # digest of every op's output on golden inputs, computed on that device
    dtype: str  # of weights and hidden states
    dispatch_dtype: str  # of rows on their way to experts
    kv_dtype: str  # of latents in the cache
    weights: str  # digest of the config's numbers and a sample of every tensor

    @property
    def name(self) -> str:
        """The class as workers compare it, and as clients see it in `system_fingerprint`."""
        text = "\n".join(f"{name}={value}" for name, value in self.parts().items())
        return "caracal-" + hashlib.sha256(text.encode()).hexdigest()[:16]

    def parts(self) -> dict[str, str]:
        """The named parts, in order."""
        return asdict(self)


def numerics_of(
    checkpoint: Checkpoint,
    dtype: torch.dtype,
    device: torch.device,
    dispatch_dtype: torch.dtype | None = None,
    kv_dtype: str = "",
) -> Numerics:
    """The class of a worker that computes in `dtype` on `device`, which also stands for dtypes that are not given."""
    return Numerics(
        kernels=kernels_of(device),
        probe=probe(dtype, device),
        dtype=_name(dtype),
        dispatch_dtype=_name(dispatch_dtype or dtype),
        kv_dtype=kv_dtype or _name(dtype),
        weights=checkpoint.digest,
    )


def kernels_of(device: torch.device) -> str:
    """The kernels that run there, by name."""
    if device.type != "cuda":
        return cpu_backend()
    from caracal_kernels.triton.tile_invariance import row_adaptive_dtypes

    major, minor = torch.cuda.get_device_capability(device)
    adaptive = ", ".join(row_adaptive_dtypes(device)) or "none"
    return f"triton sm_{major}{minor} {torch.cuda.get_device_name(device)}; row-adaptive tiles: {adaptive}"


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
