"""Every token of a dialogue has the kind that a reader would give it."""

from __future__ import annotations

from training.data.chat import CALL, END_CALL
from training.experiments.token_kinds import kind_of, spans


def kinds_of(text: str, produced: bool) -> dict[str, str]:
    """Returns the kind of each word or sign, each as one token."""
    marked = spans(text, produced)
    found, at = {}, 0
    for part in text.split(" "):
        start = text.index(part, at)
        at = start + len(part)
        found[part] = kind_of(-1, start, at, text, produced, marked)
    return found


def test_words_and_digits_of_an_answer() -> None:
    found = kinds_of("12 + 3 is fifteen in Paris .", produced=True)
    assert found == {
        "12": "digit of an answer",
        "+": "punctuation and spaces",
        "3": "digit of an answer",
        "is": "function word",
        "fifteen": "other word",
        "in": "function word",
        "Paris": "other word",
        ".": "punctuation and spaces",
    }


def test_syntax_and_arguments_of_a_call() -> None:
    text = f'{CALL}\n{{"name": "get_weather", "arguments": {{"city": "New York", "days": 3}}}}\n{END_CALL}'
    marked = spans(text, True)

    def kind(part: str) -> str:
        start = text.index(part)
        return kind_of(-1, start, start + len(part), text, True, marked)

    assert kind("York") == kind("3") == "argument of a tool call"
    assert kind("get_weather") == kind('"city"') == kind(CALL) == "tool-call syntax"


def test_a_prompt_has_roles_declarations_and_questions() -> None:
    text = "## Tools name ## Messages\n[Round 0] USER: What is 7 ? ASSISTANT:"
    found = kinds_of(text, produced=False)
    assert found["Tools"] == "declaration of tools"
    assert found["USER:"] == found["ASSISTANT:"] == "role of the chat"
    assert found["7"] == "digit of a question"
    assert found["What"] == "function word"
