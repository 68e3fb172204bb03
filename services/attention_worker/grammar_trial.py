"""Compiles grammars in a child process first, which is ended when one takes too long, too much memory, or crashes.

A few lines of JSON schema can ask for more states than there are atoms; nothing can stop a thread that computes them.
The child: `python -m services.attention_worker.grammar_trial`.
"""

from __future__ import annotations

import resource
from typing import Any

from services.process.asked_child import AskedChild, ChildEnded, ChildLate, serve

TRIAL_S = 5  # of CPU for one grammar; a schema of 3000 properties takes a tenth of it
TIMEOUT_S = 60.0  # how long that may take on a machine that others use
TRIAL_BYTES = 2 << 30  # of address space
TOO_MUCH = "it takes too long or too much memory to compile"


class NotCompiledInTime(Exception):
    """Expected: the machine is too busy to say whether a grammar can be compiled."""


class GrammarTrial:
    """A child process that tries grammars, one at a time."""

    def __init__(self, timeout_s: float = TIMEOUT_S) -> None:
        self._child = AskedChild("services.attention_worker.grammar_trial", [], TRIAL_S, {})
        self._timeout_s = timeout_s

    def error_of(self, grammar: str) -> str:
        """Returns why a grammar cannot be compiled; empty for one that can. Raises NotCompiledInTime."""
        try:
            head, _ = self._child.ask({}, grammar.encode(errors="replace"), self._timeout_s)
        except ChildLate:
            raise NotCompiledInTime("a grammar is not compiled in time") from None
        except ChildEnded:
            return TOO_MUCH
        return str(head["error"])

    def close(self) -> None:
        self._child.close()


def main() -> None:
    from llguidance import LLMatcher, LLParserLimits

    resource.setrlimit(resource.RLIMIT_AS, (TRIAL_BYTES, TRIAL_BYTES))
    limits = LLParserLimits(verbose_errors=False)

    def answer(_: dict[str, Any], grammar: bytes) -> tuple[dict[str, Any], bytes]:
        return {"error": LLMatcher.validate_grammar(grammar.decode(), limits=limits)}, b""

    serve(answer)


if __name__ == "__main__":
    main()
