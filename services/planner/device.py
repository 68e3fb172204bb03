"""Devices and links as the cost of a step sees them: published figures, and the few factors that are fitted."""

from __future__ import annotations

from dataclasses import dataclass, field

PLATFORMS = ("cuda", "cpu", "cann")
WIDTHS = {"fp32": 32, "bf16": 16, "fp8": 8, "nvfp4": 4}  # bits of a value in a product


@dataclass(frozen=True, slots=True, kw_only=True)
class Factors:
    """How far a device stays behind its data sheet. `fitted_on`: on which rows; empty: as another device."""

    efficiency: float = 1.0  # share of peaks, of memory and products, that a step's kernels reach
    overlap_loss: float = 0.0  # share of the shorter of two things side by side that still costs time
    op_s: float = 0.0  # of one kernel of a step: its start and its tail
    step_s: float = 0.0  # of a step, outside its layers
    row_s: float = 0.0  # of one sequence in a step: sampler, stream, router
    touch_s: float = 0.0  # of one more expert that gets rows: weights that no cache has yet
    fitted_on: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """One accelerator, or one core's worth of a CPU.

    `flops`: dense peaks by dtype. `attention_flops`: what the published attention kernel reaches, 0 if it is not known.
    """

    name: str
    memory_bytes: float
    memory_bytes_s: float
    flops: dict[str, float]
    platform: str = "cuda"  # of the software that runs it: one of PLATFORMS
    attention_flops: float = 0.0
    index_bytes_s: float = 0.0  # at which keys of an index are scored and chosen from; 0: as memory is read
    price_h: float = 0.0  # USD
    factors: Factors = field(default_factory=Factors)
    sources: dict[str, str] = field(default_factory=dict)

    def gemm_flops(self, dtype: str) -> float:
        """Operations per second of products. A dtype that the device lacks runs in the next wider one.

        Where there is no wider one either, it is as many times slower than the widest as it is wider.
        """
        if dtype in self.flops:
            return self.flops[dtype]
        if wider := [one for one in self.flops if WIDTHS[one] > WIDTHS[dtype]]:
            return self.flops[min(wider, key=WIDTHS.__getitem__)]
        widest = max(self.flops, key=WIDTHS.__getitem__)
        return self.flops[widest] * WIDTHS[widest] / WIDTHS[dtype]


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """The way between two devices' memories, as one direction of one device sees it."""

    name: str
    bytes_s: float  # that an exchange of rows reaches, each way
    latency_s: float  # from a message's start at one end to its arrival at the other, payload apart
    message_s: float = 0.0  # of the sender's and receiver's time for one more message
    row_s: float = 0.0  # of their time for a row that goes and comes back: planning, copies, adding
    domain: int = 0  # devices that it joins at most; 0: any number
    sources: dict[str, str] = field(default_factory=dict)


def side_by_side(a: float, b: float, loss: float) -> float:
    """The time of two things that run at once: the longer one, and the share of the shorter one that it suffers."""
    return max(a, b) + loss * min(a, b)
