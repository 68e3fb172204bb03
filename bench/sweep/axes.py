"""The axes: what varies along each, and what stays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

LAYERS, EXPERTS = 28, 512  # of LongCat-Flash, which has half as many zero experts and a top-k of 12
SMOKE_POINTS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One load on one cluster. `context` counts the prompt's tokens, `experts` a layer's FFN experts."""

    streams: int = 8
    context: int = 32
    layers: int = 4
    experts: int = 64
    workers: int = 1

    @property
    def overrides(self) -> dict[str, int]:
        """What its model's config.json has instead of bench-sweep.json."""
        return {
            "num_layers": self.layers,
            "num_hidden_layers": 2 * self.layers,
            "n_routed_experts": self.experts,
            "zero_expert_num": self.experts // 2,
        }


@dataclass(frozen=True, slots=True)
class Axis:
    """Points that differ in one thing, `varies`, the name of a field of Point."""

    name: str
    varies: str
    points: tuple[Point, ...]

    def at(self, point: Point) -> int:
        return int(getattr(point, self.varies))

    def short(self) -> Axis:
        """Its first points only, with few streams."""
        few = (replace(point, streams=min(point.streams, SMOKE_POINTS)) for point in self.points[:SMOKE_POINTS])
        return replace(self, points=tuple(few))


def axis(name: str, varies: str, values: Sequence[int], **fixed: int) -> Axis:
    return Axis(name, varies, tuple(Point(**{**fixed, varies: value}) for value in values))


AXES = (
    axis("streams", "streams", (1, 2, 4, 8, 16, 32, 64)),
    axis("context", "context", (128, 512, 2048, 4096, 8192), streams=1),
    axis("layers", "layers", (2, 4, 8, 14, 28)),
    axis("experts of a layer", "experts", (32, 64, 128, 256, 512)),
    axis("expert workers", "workers", (1, 2, 4, 8)),
    axis("streams, LongCat-Flash's layers and experts", "streams", (1, 8, 32, 64), layers=LAYERS, experts=EXPERTS),
)
