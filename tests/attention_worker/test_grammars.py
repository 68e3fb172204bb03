"""Output by a grammar: it matches, its bits are those of any replay, and a bad grammar costs nobody else anything."""

import asyncio
import json
import time
from collections.abc import Awaitable
from functools import cache
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest
from llguidance import LLMatcher
from support.attention_service import request, run, status, worker
from support.engine_driver import Driver, Received, limits
from support.fake_model import FakeModel
from tokenizers import Tokenizer

from services.attention_worker.engine.sequence import Sampling
from services.attention_worker.engine.token_rules import TokenRules
from services.attention_worker.grammar_trial import TIMEOUT_S, GrammarTrial, NotCompiledInTime
from services.attention_worker.grammars import BadGrammar, GrammarCompiler

pytestmark = pytest.mark.processes

MODEL = Path("models/caracal-tiny")
VOCAB, EOS, END_THINK = 1536, 2, 7
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 130},
        "tags": {"type": "array", "items": {"enum": ["a", "bb", "日本"]}, "maxItems": 3},
    },
    "required": ["name", "age", "tags"],
    "additionalProperties": False,
    "x-guidance": {"whitespace_flexible": False},
}
SCHEMA = LLMatcher.grammar_from_json_schema(PERSON)


@cache
def compiler() -> GrammarCompiler:
    return GrammarCompiler(MODEL, VOCAB, frozenset({EOS}))


@cache
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(MODEL / "tokenizer.json"))


async def expect(found: Awaitable[object], wanted: object) -> None:
    assert await found == wanted


def rules_of(grammar: str, emitted: list[int]) -> TokenRules:
    rules = TokenRules(grammar=compiler().compile(grammar, lambda matcher: matcher).result(30))
    for token in emitted:
        rules.accept(token)
    return rules


def answer(grammar: str, emitted: list[int] | None = None, seed: int = 1, temperature: float = 1.0) -> Received:
    driver = Driver(FakeModel(VOCAB), sizes=limits(num_pages=64, max_len=1000), eos_ids=frozenset({EOS}))
    asked = Sampling(max_tokens=600, temperature=temperature, seed=seed)
    received = driver.submit([3, 1, 4], asked, emitted, rules=rules_of(grammar, emitted or []))
    driver.finish()
    return received


def text(received: Received) -> str:
    return str(tokenizer().decode(received.ids[:-1], skip_special_tokens=False))


@pytest.mark.parametrize("seed", range(6))
def test_output_matches_its_schema(seed: int) -> None:
    received = answer(SCHEMA, seed=seed, temperature=1.0 if seed else 0.0)
    assert received.ids[-1] == EOS
    assert received.endings[0].reason == "stop"
    value = json.loads(text(received))
    assert list(value) == ["name", "age", "tags"]
    assert len(value["name"]) <= 12
    assert 0 <= value["age"] <= 130
    assert set(value["tags"]) <= {"a", "bb", "日本"}


def test_every_attempt_goes_on_with_the_same_bits() -> None:
    whole = answer(SCHEMA, seed=2)
    for cut in range(1, len(whole.ids), 3):
        assert answer(SCHEMA, whole.ids[:cut], seed=2).tokens == whole.tokens[cut:]


def test_a_choice_ends_where_it_is_complete() -> None:
    received = answer('start: "日本語" | "no <longcat_s>"')
    assert text(received) in ("日本語", "no <longcat_s>")


def test_neighbours_keep_their_bits() -> None:
    plain = Sampling(max_tokens=30, temperature=0.9, seed=8)
    alone = Driver(FakeModel(VOCAB))
    expected = alone.submit([5, 6], plain)
    alone.finish()
    driver = Driver(FakeModel(VOCAB), eos_ids=frozenset({EOS}))
    beside = driver.submit([5, 6], plain)
    driver.submit([3, 1, 4], Sampling(max_tokens=200, seed=1, temperature=1.0), rules=rules_of(SCHEMA, []))
    driver.finish()
    assert [token.logits_checksum for token in beside.tokens] == [token.logits_checksum for token in expected.tokens]
    assert beside.ids == expected.ids


@pytest.mark.parametrize(
    "grammar",
    [
        "start: (",
        "{}",
        "",
        "start: /(/",
        'start: missing "x"',
        json.dumps({"grammars": [{"json_schema": {"type": "strange"}}]}),
        json.dumps({"grammars": [{"json_schema": {"$ref": "https://example.com/schema"}}]}),
        json.dumps({"grammars": [{"json_schema": {"type": "string", "pattern": "(?<=a)b"}}]}),
    ],
)
def test_what_cannot_be_compiled_says_so(grammar: str) -> None:
    with pytest.raises(BadGrammar):
        rules_of(grammar, [])


@pytest.mark.parametrize(
    "schema",
    [
        {"enum": [f"value {i}" for i in range(20_000)]},
        {"type": "string", "minLength": 100_000, "maxLength": 1_000_000},
        {"type": "string", "pattern": "(a?){500}a{500}"},
        {"type": "string", "pattern": "^(([a-z]+)*[0-9]{1,5000}){1,5000}$"},
        {"type": "object", "properties": {f"p{i}": {"type": "integer"} for i in range(3000)}},
        {"$defs": {"a": {"anyOf": [{"$ref": "#/$defs/a"}] * 50}}, "$ref": "#/$defs/a"},
        {"allOf": [{"pattern": f".*{chr(97 + i)}.*"} for i in range(26)], "type": "string"},
    ],
    ids=["enum", "long", "optional", "nested", "wide", "circle", "all"],
)
def test_hostile_schemas_take_bounded_time(schema: dict[str, Any]) -> None:
    """Compiled or rejected, and then a token or a rejection: within seconds, wherever the time goes."""
    began = time.monotonic()
    try:
        rules = rules_of(json.dumps({"grammars": [{"json_schema": schema}]}), [])
        driver = Driver(FakeModel(VOCAB), eos_ids=frozenset({EOS}))
        driver.submit([3, 1, 4], Sampling(max_tokens=3, seed=1, temperature=1.0), rules=rules)
        driver.finish()
    except BadGrammar:
        pass
    assert time.monotonic() - began < TIMEOUT_S


def test_a_machine_that_is_too_busy_is_no_fault_of_the_grammar() -> None:
    trial = GrammarTrial(timeout_s=0.3)
    try:
        assert trial.error_of('start: "a"') == ""
        (child,) = (each for each in psutil.Process().children(recursive=True) if "grammar_trial" in each.cmdline()[-1])
        child.suspend()
        with pytest.raises(NotCompiledInTime):
            trial.error_of('start: "b"')
        assert trial.error_of('start: "b"') == "", "by another child"
    finally:
        trial.close()


def test_an_attempt_that_compiles_when_a_drain_begins_is_served_or_handed_back() -> None:
    """The first grammar takes long: the tokenizer is read, and the process of trials is started."""

    async def drained(move: bool) -> tuple[grpc.StatusCode, str]:
        async with worker(limits(max_len=256), MODEL, VOCAB, frozenset({EOS})) as one:
            call = one.stub.Generate(request(grammar=SCHEMA, max_tokens=5))
            while not one.service.preparing:  # noqa: ASYNC110  it is no event
                await asyncio.sleep(0.001)
            await one.service.drain(move=move)
            return await status(call)

    run(lambda: expect(drained(False), (grpc.StatusCode.OK, "")))
    run(lambda: expect(drained(True), (grpc.StatusCode.UNAVAILABLE, "draining")))


def test_through_the_service() -> None:
    async def body() -> None:
        async with worker(limits(max_len=256), MODEL) as one:
            bad = request(grammar="start: (", max_tokens=5)
            with pytest.raises(grpc.aio.AioRpcError) as error:
                [event async for event in one.stub.Generate(bad)]
            assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert (error.value.details() or "").startswith("grammar: ")
            for field in ({"min_tokens": 2}, {"ignore_eos": True}):
                with pytest.raises(grpc.aio.AioRpcError) as error:
                    [event async for event in one.stub.Generate(request(grammar='start: "a"', max_tokens=5, **field))]
                assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT
            plain = [event async for event in one.stub.Generate(request(max_tokens=5))]
            assert sum(len(event.tokens) for event in plain) == 5

    run(body)


def test_an_attempt_that_is_cancelled_while_it_compiles_leaves_nothing() -> None:
    async def body() -> None:
        async with worker(limits(max_len=256), MODEL) as one:
            slow = json.dumps({"grammars": [{"json_schema": {"enum": [f"value {i}" for i in range(20_000)]}}]})
            call = one.stub.Generate(request(grammar=slow, max_tokens=5))
            await asyncio.sleep(0.02)
            call.cancel()
            plain = [event async for event in one.stub.Generate(request(max_tokens=5))]
            assert sum(len(event.tokens) for event in plain) == 5

    run(body)
