"""Reads /cluster and /ready of a gateway, with the standard library."""

from __future__ import annotations

import http.client
import json
import os

from services.cli.gateway_url import gateway_parts
from services.cli.run_state import NoCluster
from services.membership.overview import Overview

TIMEOUT_S = 5.0


def ask_gateway(url: str, timeout_s: float = TIMEOUT_S) -> Overview:
    """Reads the overview of a cluster with GET /cluster. Raises NoCluster, naming the URL."""
    status, text = _get(url, "/cluster", timeout_s)
    return overview_of(text, status, url)


def ask_ready(url: str) -> str:
    """Reads with GET /ready why requests cannot be served; empty when they can. Raises NoCluster, naming the URL."""
    status, text = _get(url, "/ready", TIMEOUT_S)
    return reason_of(text, status, url)


def ask_page(url: str, path: str, timeout_s: float) -> str:
    """Reads a page of text. Raises NoCluster, naming the URL."""
    status, text = _get(url, path, timeout_s)
    if status != 200:
        raise NoCluster(f"{url}{path} answers {status}")
    return text.decode(errors="replace")


def _get(url: str, path: str, timeout_s: float) -> tuple[int, bytes]:
    try:
        parts = gateway_parts(url)
    except ValueError as error:
        raise NoCluster(str(error)) from None
    assert parts.hostname is not None
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.hostname, parts.port, timeout=timeout_s)
    try:
        connection.request("GET", parts.path.rstrip("/") + path, headers=key_headers())
        response = connection.getresponse()
        text = response.read()
    except (OSError, http.client.HTTPException) as error:
        raise NoCluster(f"no gateway answers at {url}: {error or type(error).__name__}") from None
    finally:
        connection.close()
    if 300 <= response.status < 400:
        raise NoCluster(f"{url} redirects to {response.headers.get('location', 'nowhere')}: use that URL")
    return response.status, text


def key_headers() -> dict[str, str]:
    """The header that shows a gateway the key of CARACAL_API_KEY, where there is one. Raises NoCluster."""
    key = os.environ.get("CARACAL_API_KEY", "")
    if not (key.isascii() and key.isprintable()):
        raise NoCluster("CARACAL_API_KEY has characters that no HTTP header can have")
    return {"x-api-key": key} if key else {}


def overview_of(text: str | bytes, status: int, name: str) -> Overview:
    """Parses the response of `name` to GET /cluster. Raises NoCluster when it is not an overview."""
    try:
        if status == 200:
            return Overview.from_json(text)
        reason = str(json.loads(text)["error"]["message"])
    except (ValueError, KeyError, TypeError, RecursionError):
        raise NoCluster(f"{name} is not a Caracal gateway (status {status} for /cluster)") from None
    raise NoCluster(f"{name} answers: {reason}")


def reason_of(text: str | bytes, status: int, name: str) -> str:
    """Parses the response of `name` to GET /ready: why it is not ready, empty when it is. Raises NoCluster."""
    if status == 200:
        return ""
    try:
        body = json.loads(text)
        return ". ".join(str(body[key]) for key in ("reason", "warning") if key in body) or str(
            body["error"]["message"]
        )
    except (ValueError, KeyError, TypeError, RecursionError):
        raise NoCluster(f"{name} is not a Caracal gateway (status {status} for /ready)") from None
