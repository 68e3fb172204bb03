"""Bytes and operations, and the time that a device needs for them.

Legend: b sequences of a worker, r rows (sequences times 1 + drafted tokens), c context.
"""

from __future__ import annotations

from dataclasses import dataclass

from services.planner.device import Device


@dataclass(frozen=True, slots=True)
class Work:
    """What a kernel, or some of them, read and compute. `seconds` is what no device speeds up, as a fixed rate."""

    read_bytes: float = 0.0
    flops: float = 0.0
    dtype: str = "bf16"
    ops: float = 0.0  # kernels

    def seconds(self, device: Device) -> float:
        """The time of a device: memory and products at once, then what each kernel costs in itself."""
        factors = device.factors
        busy = max(self.read_bytes / device.memory_bytes_s, self.flops / device.gemm_flops(self.dtype))
        return busy / factors.efficiency + self.ops * factors.op_s


def product(rows: float, params: float, dtype: str, value_bytes: float, ops: float) -> Work:
    """Rows times matrices of so many parameters: every weight is read once."""
    return Work(params * value_bytes, 2 * rows * params, dtype, ops)
