"""Records in Redis, signed with the cluster key under their own name: one that is copied to another name is none."""

from __future__ import annotations

import hmac

from services.security.cluster_key import ClusterKey

LABEL = "record"
PREFIX = b"hmac-sha256:"
_HEAD = len(PREFIX) + 64 + 1  # the digest in hex, then a colon


class BadRecord(ValueError):
    """A record that was not signed with the cluster key, or under another name."""


def signed(key: ClusterKey, name: str, value: bytes) -> bytes:
    """The record to store under `name`; the value itself without a key."""
    if not key.given:
        return value
    return PREFIX + _digest(key.signs(LABEL), name, value) + b":" + value


def verified(key: ClusterKey, name: str, record: bytes) -> bytes:
    """The value of a record that was read from `name`. Raises BadRecord."""
    if not key.given:
        if record.startswith(PREFIX):
            raise BadRecord("it is signed, and this process has no cluster key")
        return record
    if not record.startswith(PREFIX):
        raise BadRecord("it is not signed with the cluster key")
    digest, value = record[len(PREFIX) : _HEAD - 1], record[_HEAD:]
    if not any(hmac.compare_digest(digest, _digest(secret, name, value)) for secret in key.verifies(LABEL)):
        raise BadRecord("it is signed with another cluster key, or for another name")
    return value


def _digest(secret: bytes, name: str, value: bytes) -> bytes:
    own = name.encode(errors="surrogateescape")
    return hmac.digest(secret, len(own).to_bytes(4, "big") + own + value, "sha256").hex().encode()
