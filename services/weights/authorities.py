"""Further authorities whose certificates a store, or a proxy on the way to it, may show: those of CARACAL_FETCH_CA.

They count beside the machine's own, and for fetches alone.
"""

from __future__ import annotations

import os
import ssl
from pathlib import Path
from urllib.request import getproxies

import httpx2

from services.security.tls import authorities_violation
from services.weights.errors import BadSource

VARIABLE = "CARACAL_FETCH_CA"
UNKNOWN = f"its certificate is of no authority that is known here: {VARIABLE} names a file with further ones"


def authorities_file() -> Path | None:
    """The file with them, in PEM; None where the environment names none. Raises BadSource for one that has none."""
    named = os.environ.get(VARIABLE, "")
    if not named:
        return None
    if violation := authorities_violation(Path(named)):
        raise BadSource(f"{VARIABLE} is {named}: {violation}")
    return Path(named)


def http_client(file: Path | None) -> httpx2.Client:
    """A client that takes these authorities, too, from servers and from proxies of the environment."""
    if file is None:
        return httpx2.Client(follow_redirects=True, timeout=None)
    context = httpx2.create_ssl_context()
    context.load_verify_locations(file)
    # Of a proxy that speaks TLS itself the client would take the machine's authorities alone.
    by_proxies = {
        f"{scheme}://": httpx2.HTTPTransport(verify=context, proxy=httpx2.Proxy(url, ssl_context=context))
        for scheme, url in getproxies().items()
        if scheme in ("http", "https", "all") and url.startswith("https://")
    }
    return httpx2.Client(verify=context, mounts=by_proxies, follow_redirects=True, timeout=None)


def is_of_no_authority(error: BaseException) -> bool:
    """Whether a connection failed since the other end's certificate cannot be verified."""
    seen: BaseException | None = error
    while seen is not None:
        # The Rust client says it in words alone.
        if isinstance(seen, ssl.SSLCertVerificationError) or "invalid peer certificate" in str(seen):
            return True
        seen = seen.__cause__ or seen.__context__
    return False
