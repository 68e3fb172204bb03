"""How fetching ends badly; each message is one line that names the file or the place.

FetchError
├── BadSource          what no further try changes: an address, credentials, a file without a digest
├── SourceUnavailable  the network, or a store that is overloaded; tried again
├── Damaged            a file whose bytes are not those of its digest, after two fetches
└── NoSpace            the disk is full, or would be
"""

from __future__ import annotations


class FetchError(RuntimeError):
    """Expected: what was to be fetched is not there in full."""


class BadSource(FetchError):
    """The source cannot be used as it is."""


class SourceUnavailable(FetchError):
    """The source does not answer, or breaks off."""


class Damaged(FetchError):
    """What came is not what the digest says."""


class NoSpace(FetchError):
    """The folder's disk has too little space."""
