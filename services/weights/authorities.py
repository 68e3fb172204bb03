"""Further authorities whose certificates a store, or a proxy on the way to it, may show: those of CARACAL_FETCH_CA.

They count beside the machine's own, and for fetches alone.
"""

from __future__ import annotations

import os
import re
import ssl
from pathlib import Path
from urllib.request import getproxies

import httpx2

from services.security.tls import authorities_violation
from services.weights.errors import BadSource

VARIABLE = "CARACAL_FETCH_CA"
_NO_ISSUER = {18, 19, 20, 21}  # OpenSSL's X509_V_ERR_*: self-signed, or without the issuer's certificate
_OF_RUSTLS = re.compile(r"InvalidCertificate\(\s*(\w+)")  # the Rust client says it in the words of its debugger alone
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


def certificate_fault(error: BaseException) -> str:
    """Why the other end's certificate is not taken, in words; empty where that is not what went wrong."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, ssl.SSLCertVerificationError):
            return UNKNOWN if seen.verify_code in _NO_ISSUER else f"its certificate is not taken: {seen.verify_message}"
        if found := _OF_RUSTLS.search(str(seen)):
            return UNKNOWN if found[1] == "UnknownIssuer" else f"its certificate is not taken: {found[1]}"
        seen = seen.__cause__ or seen.__context__
    return ""
