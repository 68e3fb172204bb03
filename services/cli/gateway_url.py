"""URLs of gateways as users write them: with or without a scheme, and with the /v1 that OpenAI's clients want."""

from __future__ import annotations


def gateway_url(text: str) -> str:
    """The URL of the gateway itself, without a slash at its end. What is not a URL stays what it is."""
    url = text.strip()
    if url and "://" not in url:
        url = f"http://{url}"
    return url.rstrip("/").removesuffix("/v1").rstrip("/")
