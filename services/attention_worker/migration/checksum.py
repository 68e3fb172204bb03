"""The checksum of a page on its way to another worker. Pure."""

from __future__ import annotations

from hashlib import blake2b

CHECKSUM_BYTES = 16


def page_checksum(name: bytes, latents: bytes) -> bytes:
    """The checksum of a page's bytes and its name, so that no page passes for another one."""
    return blake2b(latents, digest_size=CHECKSUM_BYTES, key=name).digest()
