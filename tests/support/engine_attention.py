"""Attention workers for tests of the router whose engine is real and whose model is random: masks, draws, replays."""

from __future__ import annotations

import json
from pathlib import Path

from support.attention_service import Worker
from support.engine_driver import limits
from support.fake_attention import FakeAttention, answers_with

from services.router.requests.worker_choice import AttentionWorkerView

EOS = 2


class EngineAttention(FakeAttention):
    """Takes the place of a scripted worker. `model_dir`: the tokenizer, and a config.json with the sizes."""

    def __init__(self, model_dir: Path, worker_id: str = "attention-0") -> None:
        super().__init__(answers_with([]), worker_id=worker_id, numerics_class="caracal-test")
        self._model_dir = model_dir
        self.worker: Worker | None = None

    def record(self, **changes: object) -> AttentionWorkerView:
        assert self.worker is not None
        return super().record(address=self.worker.target, **changes)

    async def start(self, port: int = 0) -> None:
        config = json.loads((self._model_dir / "config.json").read_text())
        sizes = limits(num_pages=512, max_batch_tokens=128, max_len=config["max_position_embeddings"], max_scores=24)
        self.worker = Worker(sizes, self._model_dir, config["vocab_size"], frozenset({EOS}))
        await self.worker.start()

    async def stop(self) -> None:
        worker, self.worker = self.worker, None
        if worker is not None:
            await worker.stop()
