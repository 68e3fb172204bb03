"""A model of a Hugging Face hub. HF_ENDPOINT, HF_TOKEN, the proxies of the environment and CARACAL_FETCH_CA hold.

The library lists the files and their digests; bytes are read here by HTTP ranges, for it reads whole files alone, and
compares no digest.
"""

from __future__ import annotations

from collections.abc import Iterator

import httpx2
from huggingface_hub import HfApi, get_session, get_token, hf_hub_url, set_client_factory
from huggingface_hub.errors import HfHubHTTPError

from services.weights.address import Address
from services.weights.authorities import authorities_file, certificate_fault, http_client
from services.weights.digests import GIT, SHA256, Digest
from services.weights.errors import BadSource, SourceUnavailable
from services.weights.source import RemoteFile

TIMEOUT_S = 30.0  # for the connection, and without a byte
_TRY_AGAIN = {408, 425, 429, 500, 502, 503, 504}


class HubSource:
    """One revision of a repository, held to the commit that it was when the files were listed."""

    def __init__(self, address: Address, endpoint: str | None = None) -> None:
        """`endpoint`: of the hub, instead of the environment's, which the library reads when it is imported.

        Raises BadSource for authorities that cannot be read.
        """
        self.address = str(address)
        self._repository, self._revision = address.place, address.revision
        self._api = HfApi(endpoint=endpoint)
        if (authorities := authorities_file()) is not None:
            set_client_factory(lambda: http_client(authorities))  # the library's calls go by it, and those here

    @property
    def pinned(self) -> str:
        return f"hf://{self._repository}@{self._revision}"

    def files(self) -> list[RemoteFile]:
        try:
            found = self._api.model_info(
                self._repository, revision=self._revision, files_metadata=True, timeout=TIMEOUT_S
            )
        except HfHubHTTPError as error:
            raise self._failed(error.response.status_code, "") from None
        except httpx2.HTTPError as error:
            raise self._unreachable("", error) from None
        if not found.sha:
            raise BadSource(f"{self.address}: {self._api.endpoint} names no commit")
        self._revision = found.sha
        files = []
        for one in found.siblings or []:
            if one.size is None:
                raise BadSource(f"{self.address}: {self._api.endpoint} does not say how large {one.rfilename} is")
            digest = Digest(GIT, one.blob_id) if one.blob_id else None
            if one.lfs is not None:
                digest = Digest(SHA256, one.lfs.sha256)
            files.append(RemoteFile(one.rfilename, one.size, digest.value if digest else found.sha, digest))
        return sorted(files, key=lambda file: file.name)

    def read(self, file: RemoteFile, begin: int, end: int) -> Iterator[bytes]:
        url = hf_hub_url(self._repository, file.name, revision=self._revision, endpoint=self._api.endpoint)
        headers = {"Range": f"bytes={begin}-{end - 1}", "Accept-Encoding": "identity"}
        if token := get_token():
            headers["Authorization"] = f"Bearer {token}"
        left = end - begin
        try:
            with get_session().stream("GET", url, headers=headers, timeout=TIMEOUT_S) as answer:
                if answer.status_code != 206 and not (answer.status_code == 200 and left == file.size):
                    raise self._failed(answer.status_code, f"{file.name}: ")
                for piece in answer.iter_raw():
                    left -= len(piece)
                    if left < 0:
                        raise SourceUnavailable(f"{file.name}: {self._api.endpoint} sends more than was asked for")
                    yield piece
        except httpx2.HTTPError as error:
            raise self._unreachable(f"{file.name}: ", error) from None
        if left:
            raise SourceUnavailable(f"{file.name}: {self._api.endpoint} broke off {left} bytes before the end")

    def _unreachable(self, what: str, error: httpx2.HTTPError) -> BadSource | SourceUnavailable:
        if fault := certificate_fault(error):
            return BadSource(f"{self.address}: {what}{self._api.endpoint}: {fault}")
        return SourceUnavailable(f"{what or f'{self.address}: '}{type(error).__name__}: {error}")

    def _failed(self, status: int, what: str) -> BadSource | SourceUnavailable:
        where = f"{self.address}: {what}{self._api.endpoint} answers {status}"
        if status in _TRY_AGAIN:
            return SourceUnavailable(where)
        if status in (401, 403, 404):
            return BadSource(f"{where}: there is no such revision or file, or HF_TOKEN does not allow it")
        return BadSource(where)
