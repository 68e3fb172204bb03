"""Drives an engine step by step on the test's own thread and records what every request was pushed."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

from torch import Tensor

from services.attention_worker.engine.engine import Engine, EngineLimits, ModelLike
from services.attention_worker.engine.sequence import Ending, Request, Sampling, Sequence, TokenOut


def limits(
    *, num_pages: int = 64, page_size: int = 16, max_batch_tokens: int = 64, max_running: int = 16, max_len: int = 256
) -> EngineLimits:
    return EngineLimits(
        num_pages=num_pages,
        page_size=page_size,
        max_batch_tokens=max_batch_tokens,
        max_running=max_running,
        max_model_len=max_len,
    )


@dataclass
class Heard:
    """Everything one request was pushed, and the logits rows its tokens were drawn from."""

    key: int = -1
    tokens: list[TokenOut] = field(default_factory=list)
    endings: list[Ending] = field(default_factory=list)
    rows: list[Tensor] = field(default_factory=list)

    def __call__(self, tokens: list[TokenOut], ending: Ending | None) -> None:
        assert not self.endings, "pushed something after its ending"
        self.tokens += tokens
        if ending:
            self.endings.append(ending)

    @property
    def ids(self) -> list[int]:
        return [token.id for token in self.tokens]


class Driver:
    """An engine and its listeners."""

    def __init__(
        self,
        model: ModelLike,
        exchange: object = None,
        sizes: EngineLimits | None = None,
        eos_ids: frozenset[int] = frozenset(),
        shuffle: Random | None = None,
    ) -> None:
        self.heard: dict[int, Heard] = {}
        self.engine = Engine(model, exchange, sizes or limits(), eos_ids, observe=self._observe, shuffle_pages=shuffle)  # type: ignore[arg-type]

    def submit(self, prompt: list[int], sampling: Sampling, emitted: list[int] | None = None) -> Heard:
        heard = Heard()
        request = Request(request_id="r", prompt_ids=tuple(prompt), emitted_ids=tuple(emitted or ()), sampling=sampling)
        heard.key = self.engine.submit(request, heard)
        self.heard[heard.key] = heard
        return heard

    def cancel(self, heard: Heard) -> None:
        self.engine.cancel(heard.key)

    def finish(self, max_steps: int = 100_000) -> None:
        """Steps until nothing is left; then every request has one ending and no page is held."""
        for _ in range(max_steps):
            if not self.engine.step():
                break
        assert all(len(heard.endings) == 1 for heard in self.heard.values())
        assert self.engine.cache.pages.used == 0

    def _observe(self, sequences: list[Sequence], logits_BV: Tensor) -> None:
        for sequence, row in zip(sequences, logits_BV, strict=True):
            self.heard[sequence.key].rows.append(row.clone())
