"""URLs of gateways as users write them: with or without a scheme, with the /v1 that OpenAI's clients want, or whole."""

from __future__ import annotations

import re

API = re.compile(r"/v1(/(chat/)?completions|/models)?/*$|/+$")


def gateway_url(text: str) -> str:
    """The URL of the gateway itself, without a slash at its end. What is not a URL stays what it is."""
    url = text.strip()
    if url and "://" not in url:
        url = f"http://{url}"
    return API.sub("", url).rstrip("/")
