"""A folder of a bucket, on S3 and what speaks its protocol, or on Google Cloud Storage.

Credentials, endpoint and region come from the environment as the stores' own programs read it (AWS_ACCESS_KEY_ID,
AWS_ENDPOINT_URL, AWS_REGION, ..., GOOGLE_SERVICE_ACCOUNT, ...) and from the machine's identity; so do proxies.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import timedelta

import obstore
from obstore.exceptions import (
    BaseError,
    NotFoundError,
    PermissionDeniedError,
    PreconditionError,
    UnauthenticatedError,
)
from obstore.store import GCSStore, S3Store

from services.weights.address import Address
from services.weights.authorities import authorities_file, certificate_fault
from services.weights.digests import etag_digest
from services.weights.errors import BadSource, FetchError, SourceUnavailable
from services.weights.source import RemoteFile

PIECE_BYTES = 16 << 20  # of one call
CALL_S = timedelta(minutes=2)
_CLIENT = {"timeout": CALL_S, "connect_timeout": timedelta(seconds=10)}
_FEW_TRIES = {"max_retries": 2, "retry_timeout": timedelta(seconds=10)}  # whoever calls tries again, and says so
_FINAL = (NotFoundError, PermissionDeniedError, UnauthenticatedError)


class ObjectStore:
    """The files below one prefix of a bucket."""

    def __init__(self, address: Address) -> None:
        self.address = self.pinned = str(address)
        client = {**_CLIENT, "allow_http": os.environ.get("AWS_ENDPOINT_URL", "").startswith("http://")}
        if (authorities := authorities_file()) is not None:
            client["root_certificate"] = authorities.read_bytes()  # beside the machine's
        kind = S3Store if address.scheme == "s3" else GCSStore
        try:
            self._store = kind(
                address.place,
                prefix=address.prefix or None,
                client_options=client,  # type: ignore[arg-type]
                retry_config=_FEW_TRIES,  # type: ignore[arg-type]
            )
        except (BaseError, ValueError) as error:
            raise BadSource(f"{self.address}: {_first_line(error)}") from None

    def files(self) -> list[RemoteFile]:
        try:
            listed = [one for some in obstore.list(self._store) for one in some]
        except (BaseError, OSError) as error:
            raise self._failed("", error) from None
        if not listed:
            raise BadSource(f"{self.address}: has no files")
        found = [
            RemoteFile(one["path"], one["size"], one["e_tag"] or "", etag_digest(one["e_tag"], one["size"]))
            for one in listed
        ]
        return sorted(found, key=lambda file: file.name)

    def read(self, file: RemoteFile, begin: int, end: int) -> Iterator[bytes]:
        for first in range(begin, end, PIECE_BYTES):
            last = min(end, first + PIECE_BYTES)
            asked: dict[str, object] = {"range": (first, last)}
            if file.version:
                asked["if_match"] = file.version
            try:
                piece = bytes(obstore.get(self._store, file.name, options=asked).bytes())  # type: ignore[arg-type]
            except PreconditionError:
                raise BadSource(f"{file.name}: has changed at {self.address} since its files were listed") from None
            except (BaseError, OSError) as error:
                raise self._failed(f"{file.name}: ", error) from None
            if len(piece) != last - first:
                raise SourceUnavailable(f"{file.name}: {self.address} sent {len(piece)} of {last - first} bytes")
            yield piece

    def _failed(self, what: str, error: Exception) -> FetchError:
        if fault := certificate_fault(error):
            return BadSource(f"{self.address}: {what}{fault}")
        kind = BadSource if isinstance(error, (*_FINAL, FileNotFoundError, PermissionError)) else SourceUnavailable
        return kind(f"{self.address}: {what}{_first_line(error)}")


def _first_line(error: Exception) -> str:
    """The libraries' errors go on with their sources over several lines."""
    return " ".join(str(error).split("\n\nDebug source")[0].split())[:300]
