"""The numerics class: the one place where it is decided whether two workers' answers are interchangeable bit for bit.

A row's bits depend on the row, its position and what is named here, and on nothing else: not on the batch, the number
of workers or ranks, a retry or a replay. So sequences move and experts are replaced within one class only.

An attention worker reads all of its tensors, and its class names them byte by byte: it is that of the expert workers
it may use, with something behind it (`membership/numerics_class.py`). Of an expert worker's tensors, any part of all
experts', each expert's digest says the same (`expert_worker/experts.py`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

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
    attention: str = ""  # of attention workers: digest of all bytes of their tensors, and of a golden forward

    @property
    def name(self) -> str:
        """The class as workers compare it, and as clients see it in `system_fingerprint`."""
        return f"{self.table_name}-{self.attention[:8]}" if self.attention else self.table_name

    @property
    def table_name(self) -> str:
        """The part of it that placement tables and expert workers have."""
        common = "\n".join(f"{name}={value}" for name, value in self.parts().items() if name != "attention")
        return "caracal-" + hashlib.sha256(common.encode()).hexdigest()[:16]

    def parts(self) -> dict[str, str]:
        """The named parts, in order; without those that are empty."""
        return {name: value for name, value in asdict(self).items() if value}

    def with_attention(self, checksums: Sequence[int], golden: bytes) -> Numerics:
        """The class of an attention worker. `checksums`: of its tensors, in order. `golden`: what it has computed."""
        text = ",".join(f"{one:08x}" for one in checksums).encode()
        return replace(self, attention=hashlib.sha256(text + b"\n" + golden).hexdigest())


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
