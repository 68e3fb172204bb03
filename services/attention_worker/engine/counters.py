"""What an engine counts."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Counters:
    """Sums since the engine started; written by its thread, read by any."""

    progress: int = 0  # rounds of the loop: stands still only while a step is being computed
    steps: int = 0
    step_s: float = 0.0  # that the last step may take, as far as is known
    failed_steps: int = 0
    model_tokens: int = 0  # through the model, recomputation included
    prompt_tokens: int = 0  # of accepted requests
    generation_tokens: int = 0
