"""Compiles grammars with llguidance, off the engine's thread and the event loop, and follows output by them.

Each is tried in a child process first. Compiled grammars are kept: clients send the same few. Legend: V vocabulary.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np
import structlog
from llguidance import LLMatcher, LLParserLimits, LLTokenizer, TokenizerWrapper
from numpy.typing import NDArray

from services.attention_worker.engine.token_rules import NothingAllowed
from services.attention_worker.grammar_errors import plain_error
from services.attention_worker.grammar_trial import GrammarTrial
from services.checkpoint.regular_files import read_whole
from services.checkpoint.tokenizer_file import read_tokenizer
from services.checkpoint.vocabulary import Vocabulary
from services.process.fair_threads import FairThreads

log = structlog.get_logger(__name__)

KEPT = 64  # compiled grammars, and reasons why others cannot be
Result = TypeVar("Result")
_BITS = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little")
CEILINGS = np.where(_BITS, np.inf, -np.inf).astype(np.float32)  # by byte of a mask
LIMITS = LLParserLimits(verbose_errors=False)


class BadGrammar(ValueError):
    """The grammar cannot be compiled; the message is for the client."""


class _Tokens:
    """What llguidance asks of a tokenizer: the bytes of every id, and how text is cut."""

    bos_token_id = None

    def __init__(self, model: Path, vocab_size: int, eos_id: int) -> None:
        raw = json.loads(read_whole(model / "tokenizer.json"))
        self._tokenizer = read_tokenizer(model / "tokenizer.json")
        vocabulary = Vocabulary(self._tokenizer, raw)
        self.eos_token_id = eos_id
        self.tokens = vocabulary.bytes_by_id + [b""] * (vocab_size - vocabulary.size)
        self.special_token_ids = sorted({*vocabulary.special_ids, *vocabulary.added.values()})

    def __call__(self, text: bytes | str) -> list[int]:
        text = text.decode() if isinstance(text, bytes) else text
        return self._tokenizer.encode(text, add_special_tokens=False).ids


class GrammarCompiler:
    """Compiles for one model; its tokenizer is read with the first grammar. Called by any thread."""

    def __init__(self, model: Path, vocab_size: int, eos_ids: frozenset[int]) -> None:
        self._model, self._vocab_size, self._eos_ids = model, vocab_size, sorted(eos_ids)
        self._compilers = FairThreads(2, "grammar")
        self._known = ThreadPoolExecutor(1, "known-grammar")  # what was compiled before waits for no other
        self._masks = ThreadPoolExecutor(1, "mask")
        self._room = np.empty(((vocab_size + 31) // 32 * 4, 8), np.float32)
        self._lock = threading.Lock()
        self._tokenizer: LLTokenizer | None = None
        self._kept: OrderedDict[str, LLMatcher | str] = OrderedDict()
        self._trials = threading.local()
        self._open_trials: list[GrammarTrial] = []

    def compile(self, grammar: str, then: Callable[[GrammarMatcher], Result], caller: int = 0) -> Future[Result]:
        """Begins to compile, and to call `then` with a fresh matcher; the future has its result, or BadGrammar.

        Callers have their grammars compiled in turn.
        """
        with self._lock:
            known = grammar in self._kept
        if known:
            return self._known.submit(lambda: then(self._compile(grammar)))
        return self._compilers.submit(caller, lambda: then(self._compile(grammar)))

    def close(self) -> None:
        self._compilers.shutdown()
        for pool in (self._known, self._masks):
            pool.shutdown(wait=False, cancel_futures=True)
        for trial in self._open_trials:
            trial.close()

    def _compile(self, grammar: str) -> GrammarMatcher:
        with self._lock:
            tokenizer = self._tokenizer = self._tokenizer or self._read_tokenizer()
            kept = self._kept.get(grammar)
        if kept is None:
            kept = self._trial().error_of(grammar) or self._matcher(tokenizer, grammar)
        with self._lock:
            self._kept[grammar] = kept
            self._kept.move_to_end(grammar)
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
            if isinstance(kept, str):
                raise BadGrammar(plain_error(kept))
            return GrammarMatcher(kept.deep_copy(), self._vocab_size, self._masks, self._room, self._eos_ids[0])

    @staticmethod
    def _matcher(tokenizer: LLTokenizer, grammar: str) -> LLMatcher | str:
        """A matcher at the grammar's beginning, or why there is none."""
        matcher = LLMatcher(tokenizer, grammar, log_level=0, limits=LIMITS)
        return matcher.get_error() if matcher.is_error() else matcher

    def _trial(self) -> GrammarTrial:
        """The calling thread's."""
        trial: GrammarTrial | None = getattr(self._trials, "own", None)
        if trial is None:
            trial = self._trials.own = GrammarTrial()
            self._open_trials.append(trial)
        return trial

    def _read_tokenizer(self) -> LLTokenizer:
        try:
            tokens = _Tokens(self._model, self._vocab_size, self._eos_ids[0])
        except (OSError, ValueError) as error:
            raise BadGrammar(f"the model's tokenizer cannot be read: {type(error).__name__}") from None
        log.info("tokenizer of grammars is read", tokens=len(tokens.tokens))
        return LLTokenizer(TokenizerWrapper(tokens), n_vocab=self._vocab_size, eos_token=self._eos_ids)


class GrammarMatcher:
    """A `Grammar` of token_rules.py. Where the grammar is complete, only the ids that end an answer may follow."""

    def __init__(
        self, matcher: LLMatcher, vocab_size: int, masks: ThreadPoolExecutor, room: NDArray[np.float32], end_id: int
    ) -> None:
        """`room`: [bytes of a mask, 8], shared by all matchers of an engine."""
        self._matcher, self._vocab_size, self._masks, self._room = matcher, vocab_size, masks, room
        self.end_id = end_id
        self._mask: Future[bytes] | None = None

    def begin(self) -> None:
        if self._mask is None:
            self._mask = self._masks.submit(self._matcher.compute_bitmask)

    def ceiling(self) -> NDArray[np.float32]:
        self.begin()
        assert self._mask is not None
        bits = np.frombuffer(self._mask.result(), np.uint8)
        self._check()
        # By tables of eight: a quarter of the time of numpy's boolean masks, whatever the pattern of the bits is.
        np.take(CEILINGS, bits[: len(self._room)], axis=0, out=self._room, mode="clip")
        return self._room.reshape(-1)[: self._vocab_size]

    def accept(self, token: int) -> None:
        self._mask = None
        self._matcher.consume_token(token)
        self._check()

    def _check(self) -> None:
        if self._matcher.is_error():
            raise NothingAllowed(f"grammar: {plain_error(self._matcher.get_error())}")
