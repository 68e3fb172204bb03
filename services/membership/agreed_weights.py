"""What the workers of a numerics class have read as its weights, in Redis: one hash for each class, written once.

It is a hint. A worker that differs from workers that serve is refused whatever is stored here; what is stored says
which tensors differ, and stands for the others while none of them runs.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from services.membership.checks import is_text
from services.membership.client import RedisClient, field_name

KEPT_S = 30 * 86400
MOST_BYTES = 4 << 20  # of a field: a million tensors
NAMED, SHOWN = 2, 400  # tensors, and characters of the text


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """CRC-32 of tensors, in the order of a checkpoint that has this class; empty for what is not known.

    `attention`: of all bytes that attention workers read; `attention_class`: theirs. `samples`: of the first and last
    bytes of every tensor.
    """

    attention_class: str = ""
    attention: Sequence[int] = ()
    samples: Sequence[int] = ()


class AgreedWeights:
    """One process's view of them. Calls raise RedisUnavailable."""

    def __init__(self, client: RedisClient, cluster: str) -> None:
        self._client, self._cluster = client, cluster

    async def read(self, table_class: str) -> Weights:
        """What is known of a class of tables. A bad record counts as none."""
        key = self.key(table_class)
        raw = await self._client.read(self._client.redis.hgetall(key))
        if not isinstance(raw, dict):
            self._client.verified("weights", key, raw)
            return Weights()
        fields = {name: self._field(key, name, raw.get(name.encode())) for name in ("class", "attention", "samples")}
        name = fields["class"].decode(errors="replace")
        return Weights(
            attention_class=name if is_text(name) else "",
            attention=_numbers(fields["attention"]),
            samples=_numbers(fields["samples"]),
        )

    async def offer(self, table_class: str, weights: Weights) -> None:
        """Writes what nobody has written yet."""
        key = self.key(table_class)
        values = {
            "class": weights.attention_class.encode(),
            "attention": array("I", weights.attention).tobytes(),
            "samples": array("I", weights.samples).tobytes(),
        }

        def fill(pipe: Any) -> None:
            for name, value in values.items():
                if value:
                    pipe.hsetnx(key, name, self._client.signed(field_name(key, name), value))
            pipe.expire(key, KEPT_S)

        await self._client.write(fill, {key: "hash"})

    def key(self, table_class: str) -> str:
        return f"{self._cluster}:weights:{table_class}"

    def _field(self, key: str, name: str, record: object) -> bytes:
        value = self._client.verified("weights", field_name(key, name), record)
        if value is not None and (len(value) > MOST_BYTES or (name != "class" and len(value) % 4)):
            self._client.bad.note("weights", field_name(key, name), "it is too long, or no list of checksums")
            return b""
        return value or b""


def damage(names: Sequence[str], file_of: Callable[[str], str], given: Sequence[int], known: Sequence[int]) -> str:
    """Names files and tensors that are not as they are known; empty where these are other weights altogether."""
    if len(given) != len(known) or len(names) != len(known):
        return ""
    wrong = [at for at, (one, other) in enumerate(zip(given, known, strict=True)) if one != other]
    if not wrong or 2 * len(wrong) > len(names):
        return ""
    named = [f"{file_of(names[at])}: {names[at]}: CRC-32 {given[at]:08x}, not {known[at]:08x}" for at in wrong[:NAMED]]
    more = f"; and {len(wrong) - NAMED} more tensors" if len(wrong) > NAMED else ""
    text = "; ".join(named)[: SHOWN - len(more)] + more
    return "".join(one if one.isprintable() else "?" for one in text)


def _numbers(data: bytes) -> Sequence[int]:
    return array("I", data)
