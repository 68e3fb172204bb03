"""Who asks: what admission counts by, and is fair between."""

from __future__ import annotations

import hashlib
import ipaddress
from dataclasses import dataclass, field
from functools import lru_cache

V6_NETWORK = 64  # bits: one customer has as many addresses as these leave


@dataclass(frozen=True, slots=True)
class Caller:
    """One client, or several that look the same. Only what a client cannot choose freely may be in `name`."""

    name: str
    weight: float = field(default=1.0, compare=False)  # its share beside others, while requests wait

    @property
    def number(self) -> int:
        """What workers know the caller by: the same at every router."""
        return _number(self.name)


@lru_cache(4096)
def _number(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little") or 1


@lru_cache(4096)
def caller_at(host: str) -> Caller:
    """Returns the caller at an address; of IPv6 addresses the network counts. Whatever else a proxy
    hands on is one caller: a client could make up as many as it likes."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return Caller("no address")
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return Caller(str(address.ipv4_mapped))
        return Caller(str(ipaddress.ip_network((address, V6_NETWORK), strict=False)))
    return Caller(str(address))
