"""What became of one request."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class Outcome:
    """Times are in seconds: `start` of time.perf_counter, the others since then. `error` is empty when it succeeded."""

    start: float
    error: str = ""
    ttft: float = 0.0
    itls: list[float] = field(default_factory=list)  # between two events with text
    latency: float = 0.0
    prompt_tokens: int = 0
    output_tokens: int = 0
    counted: bool = True  # by the server; else each event with text counts as one token
    text: str = ""
    queued: float = 0.0  # from when it was due until it was sent

    @property
    def tpot(self) -> float:
        """Mean seconds per token after the first; 0 with one token."""
        return (self.latency - self.ttft) / (self.output_tokens - 1) if self.output_tokens > 1 else 0.0
