"""URLs of gateways as users write them: with or without a scheme, with the /v1 that OpenAI's clients want, or whole."""

from __future__ import annotations

import re
from urllib.parse import SplitResult, urlsplit

API = re.compile(r"/v1(/(chat/)?completions|/models)?/*$|/+$")


def gateway_url(text: str) -> str:
    """The URL of the gateway itself, without a slash at its end. What is not a URL stays what it is."""
    url = text.strip()
    if url and "://" not in url:
        url = f"http://{url}"
    return API.sub("", url).rstrip("/")


def gateway_parts(text: str) -> SplitResult:
    """The parts of the gateway's URL. Raises ValueError, of one line that quotes what is no URL."""
    url = gateway_url(text)
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        (parts.hostname or "").encode("idna")
    except ValueError:  # which UnicodeError is, too
        usable = False
    if not usable or any(char.isspace() or not char.isprintable() for char in url):
        raise ValueError(f"{text!r} is not the URL of a gateway: write http://HOST:PORT")
    return parts
