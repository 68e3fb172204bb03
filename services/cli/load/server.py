"""What a server says about itself: its models, and its tokenizer where it has routes for it."""

from __future__ import annotations

from typing import Any

import aiohttp

from services.cli.load.client import ServerError, error_message


class Server:
    """An OpenAI-compatible server. Methods raise ServerError, naming the URL."""

    def __init__(self, session: aiohttp.ClientSession, base_url: str) -> None:
        self._session, self._url = session, base_url
        self.model = ""  # sent with /tokenize and /detokenize

    async def first_model(self) -> str:
        """The first model of /v1/models."""
        raw = await self._json("GET", "/v1/models")
        try:
            return str(raw["data"][0]["id"])
        except (KeyError, IndexError, TypeError):
            raise ServerError(f"{self._url}/v1/models names no model: give --model") from None

    async def tokenizes(self) -> bool:
        """Whether it has /tokenize and /detokenize."""
        try:
            return bool(await self.decode(await self.encode("a word")))
        except ServerError:
            return False

    async def added(self) -> int:
        """How many tokens are added around the text of a completion."""
        return len(await self.encode("a word", special=True)) - len(await self.encode("a word"))

    async def encode(self, text: str, *, special: bool = False) -> list[int]:
        """Token ids of a text; with `special`, also those that are added around it."""
        body = {"model": self.model, "prompt": text, "add_special_tokens": special}
        try:
            return [int(token) for token in (await self._json("POST", "/tokenize", body))["tokens"]]
        except (KeyError, TypeError, ValueError):
            raise ServerError(f"{self._url}/tokenize gives no tokens") from None

    async def decode(self, ids: list[int]) -> str:
        """The text of token ids."""
        try:
            return str((await self._json("POST", "/detokenize", {"model": self.model, "tokens": ids}))["prompt"])
        except (KeyError, TypeError):
            raise ServerError(f"{self._url}/detokenize gives no text") from None

    async def _json(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        url = f"{self._url}{path}"
        try:
            async with self._session.request(method, url, json=body) as response:
                if response.status != 200:
                    text = await response.text(errors="replace")
                    raise ServerError(f"{url} answers {response.status}: {error_message(text)}")
                return await response.json(content_type=None)
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            raise ServerError(f"{url}: {error or type(error).__name__}") from None
