"""Opens what an address names; each store's library is imported when it is needed."""

from __future__ import annotations

from services.weights.address import Address
from services.weights.errors import BadSource
from services.weights.source import Source


def open_source(address: Address) -> Source:
    """Raises BadSource, also when the library for it is not installed."""
    try:
        if address.scheme == "hf":
            from services.weights.hub import HubSource

            return HubSource(address)
        if address.scheme in ("http", "https"):
            from services.weights.web import WebSource

            return WebSource(address)
        from services.weights.object_store import ObjectStore

        return ObjectStore(address)
    except ModuleNotFoundError as error:
        raise BadSource(f"{address.scheme}:// needs the package {error.name}: pip install 'caracal[fetch]'") from None
