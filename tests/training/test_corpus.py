"""The corpus: what training never shows is never shown, and what is held out is."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from jinja2.sandbox import ImmutableSandboxedEnvironment

from training.agentic import scenarios
from training.data.chat import segments
from training.data.corpus import KINDS, SEEN, UNSEEN_ALL, UNSEEN_WORDS, Mixture, Novelty, Source
from training.data.corpus.conversation import CAN, OTHER
from training.data.corpus.tool_use import LOOKUPS, NO_TOOL
from training.data.dialogues import HELD_OUT, Dialogue
from training.data.held_out import held_out_dialogues
from training.data.words import vocabulary
from training.data.words.forms import FRAMES, framed
from training.data.words.vocabulary import unseen

MODEL = Path(__file__).parents[2] / "models" / "caracal-tiny"
LISTS = {
    **{name: value for name, value in vars(vocabulary).items() if name.isupper() and isinstance(value, tuple)},
    **scenarios.FIELDS,
    "nouns": scenarios.NOUNS,
    "rooms": scenarios.ROOMS,
    "lookups": LOOKUPS,
}
COPIED = ("NAMES", "CITIES", "FOODS", "ITEMS", "OBJECTS", "PLACES")


def asked(dialogue: Dialogue) -> list[str]:
    return [message["content"] for message in dialogue.messages if message["role"] == "user"]


def words_of(dialogues: list[Dialogue]) -> set[str]:
    return {word for one in dialogues for text in asked(one) for word in re.findall(r"[A-Za-z]+", text)}


@pytest.mark.parametrize("name", LISTS)
def test_every_list_has_seen_and_unseen_words(name: str) -> None:
    kept = [word for word in LISTS[name] if unseen(word)]
    assert 2 <= len(kept) <= len(LISTS[name]) / 2
    assert len(LISTS[name]) - len(kept) >= 4


def test_training_shows_no_unseen_word_and_evaluation_no_seen_one() -> None:
    source = Source(mixture=Mixture.of({"memory": 1, "tools": 1, "agent": 1}), long_share=0.1)
    shown = words_of(list(source.dialogues(1, 0, 1500)))
    novel = words_of(list(Source(source.mixture, novelty=UNSEEN_WORDS).dialogues(HELD_OUT + 1, 0, 400)))
    in_notes = {word for note in vocabulary.NOTES for word in note.split()}  # they are split as wholes
    for name in COPIED:
        held_back = {word for word in LISTS[name] if unseen(word)}
        assert not shown & held_back, name
        assert novel & held_back, name
        assert not novel & ({word for word in LISTS[name] if not unseen(word)} - in_notes), name


def test_training_shows_no_unseen_form() -> None:
    cores = ("Who am I?", "What is my name?", "Do you remember my name?", "What am I called?")
    seen, held_back = framed(cores, False), framed(cores, True)
    assert not set(seen) & set(held_back)
    assert set(seen) | set(held_back) == {frame.replace("{}", core) for frame in FRAMES for core in cores}
    assert set(cores) <= set(seen)
    memory = Mixture.of({"memory": 1})
    shown = {text for one in Source(memory).dialogues(1, 0, 800) for text in asked(one)}
    assert shown & set(seen)
    assert not shown & set(held_back)
    novel = {text for one in Source(memory, novelty=UNSEEN_ALL).dialogues(HELD_OUT, 0, 800) for text in asked(one)}
    assert novel & set(held_back)
    assert not novel & set(seen)


def test_a_seed_determines_the_corpus() -> None:
    source = Source()
    assert list(source.dialogues(3, 5, 30)) == [source.at(3, number) for number in range(5, 35)]
    trained = {str(one) for one in source.dialogues(1, 0, 1500)}
    assert not trained & {str(one) for one in source.dialogues(HELD_OUT + 1, 0, 200)}


@pytest.mark.parametrize("novelty", [SEEN, UNSEEN_ALL], ids=["seen", "unseen"])
def test_templates_render_the_training_text(novelty: Novelty) -> None:
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.filters["tojson"] = lambda value, indent=None: json.dumps(value, ensure_ascii=False, indent=indent)
    template = environment.from_string((MODEL / "chat_template.jinja").read_text())
    for one in Source(long_share=0.1, novelty=novelty).dialogues(11, 0, 120):
        rendered = template.render(messages=list(one.messages), tools=list(one.tools) or None)
        assert rendered == "".join(text for text, _ in segments(one))


def test_every_kind_is_in_its_mixture_and_in_no_other() -> None:
    found = {
        kind: {a.category for one in Source(Mixture.of({kind: 1})).dialogues(7, 0, 60) for a in one.answers}
        for kind in KINDS
    }
    assert found["arithmetic"] == {"arithmetic"}
    assert found["counting"] == {"counting"}
    assert found["conversion"] == {"conversion", "stated unit"}
    assert found["memory"] == {"fact", "recall"}
    assert found["conversation"] == {"small talk", "off topic"}
    assert found["tools"] == {"tool call", "tool result"}
    assert found["no_tool"] == {"no tool"}
    assert found["agent"] == {"agent call", "agent reply"}


def test_long_dialogues_are_so_many() -> None:
    plain = Mixture.of({"memory": 1, "arithmetic": 1})
    lengths = [len(one.messages) for one in Source(plain, long_share=0.25).dialogues(1, 0, 1000)]
    assert 0.2 < sum(length >= 32 for length in lengths) / 1000 < 0.3
    assert max(len(one.messages) for one in Source(plain).dialogues(1, 0, 1000)) <= 13


def test_questions_of_other_worlds_are_answered_by_what_it_can_do() -> None:
    conversation = Source(Mixture.of({"conversation": 1}))
    answers = {
        message["content"]
        for one in conversation.dialogues(1, 0, 200)
        for message in one.messages
        if message["role"] == "assistant"
    }
    assert {CAN, OTHER, "I am Caracal, a very small language model.", "Hello! How can I help you?"} <= answers


def test_a_tool_that_is_not_declared_is_not_called() -> None:
    for one in Source(Mixture.of({"tools": 1, "no_tool": 1})).dialogues(2, 0, 200):
        declared = {tool["function"]["name"] for tool in one.tools}
        for message in one.messages:
            for call in message.get("tool_calls", ()):
                assert call["function"]["name"] in declared
        assert (
            not one.answers or declared or {m["content"] for m in one.messages if m["role"] == "assistant"} == {NO_TOOL}
        )


def test_mixtures_are_checked() -> None:
    assert sum(Mixture().shares) == pytest.approx(1)
    with pytest.raises(ValueError, match="arithmetic is -1"):
        Mixture(arithmetic=-1)
    with pytest.raises(ValueError, match="no kind poetry"):
        Mixture.of({"poetry": 1})
    with pytest.raises(ValueError, match="no kind has a share"):
        Mixture.of({})


def test_only_the_corpus_has_unseen_words() -> None:
    assert list(held_out_dialogues("corpus", "all")(1, 0, 2)) != list(held_out_dialogues("corpus", "seen")(1, 0, 2))
    with pytest.raises(ValueError, match="--words all: only --data corpus"):
        held_out_dialogues("dialogues", "all")
