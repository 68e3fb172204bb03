"""Facts that the user states and asks for later in the same dialogue."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

from training.data.corpus.reckoning import Question
from training.data.words import vocabulary as words
from training.data.words.forms import ask
from training.data.words.vocabulary import Novelty, choose

UNKNOWN = "You have not told me."


@dataclass(frozen=True)
class Fact:
    """One kind of fact; `{value}` in `said` and `answered` is the place of its value, `{thing}` that of an object."""

    said: tuple[str, ...]
    asked: tuple[str, ...]
    answered: str
    value: Callable[[Random, bool], str]
    thanks: str = "Noted."


def _of(listed: tuple[str, ...]) -> Callable[[Random, bool], str]:
    return lambda rng, novel: choose(rng, listed, novel)


def _place(rng: Random, novel: bool) -> str:
    return f"{choose(rng, words.COLOURS, novel)} {choose(rng, words.PLACES, novel)}"


FACTS = (
    Fact(
        ("My name is {value}.", "I am {value}.", "Hello, my name is {value}.", "Call me {value}."),
        ("What is my name?", "Who am I?", "Do you remember my name?", "What am I called?"),
        "Your name is {value}.",
        words.person,
        "Nice to meet you, {value}.",
    ),
    Fact(
        ("My favourite colour is {value}.", "The colour that I like best is {value}."),
        ("What is my favourite colour?", "Which colour do I like best?"),
        "Your favourite colour is {value}.",
        _of(words.COLOURS),
    ),
    Fact(
        ("My favourite food is {value}.", "I love {value}.", "I like to eat {value}."),
        ("What is my favourite food?", "What do I love to eat?", "Which food do I like best?"),
        "Your favourite food is {value}.",
        _of(words.FOODS),
    ),
    Fact(
        ("I live in {value}.", "My home is in {value}.", "My flat is in {value}."),
        ("Where do I live?", "In which city do I live?"),
        "You live in {value}.",
        words.city,
    ),
    Fact(
        ("My lucky number is {value}.", "{value} is my lucky number."),
        ("What is my lucky number?", "Which number is my lucky number?"),
        "Your lucky number is {value}.",
        lambda rng, novel: str(rng.randint(2, 99)),
    ),
    Fact(
        ("My dog is called {value}.", "The name of my dog is {value}.", "I have a dog called {value}."),
        ("What is my dog called?", "What is the name of my dog?"),
        "Your dog is called {value}.",
        words.pet,
    ),
    Fact(
        ("My sister is called {value}.", "The name of my sister is {value}."),
        ("What is my sister called?", "What is the name of my sister?"),
        "Your sister is called {value}.",
        words.person,
    ),
    Fact(
        ("I was born in {value}.", "My birthplace is {value}."),
        ("Where was I born?", "In which city was I born?"),
        "You were born in {value}.",
        words.city,
    ),
)
PLACED = Fact(
    ("The {thing} is in the {value}.", "I put the {thing} in the {value}.", "You find the {thing} in the {value}."),
    ("Where is the {thing}?", "Where did I put the {thing}?"),
    "The {thing} is in the {value}.",
    _place,
)


@dataclass
class Memory:
    """The facts that the user has stated so far in one dialogue, by kind; objects are kinds of their own."""

    novelty: Novelty
    known: dict[int | str, str] = field(default_factory=dict)

    def _any(self, rng: Random) -> int | str:
        if rng.random() < 0.65:
            return rng.randrange(len(FACTS))
        return choose(rng, words.OBJECTS, self.novelty.words)

    def _ask(self, rng: Random, forms: tuple[str, ...], kind: int | str, value: str = "") -> str:
        return ask(rng, forms, self.novelty.forms, value=value, thing=kind)

    def state(self, rng: Random) -> Question:
        """Returns a statement of a new fact, or of a known one with a new value, which replaces the old one."""
        kind = self._any(rng)
        fact = FACTS[kind] if isinstance(kind, int) else PLACED
        value = self.known[kind] = fact.value(rng, self.novelty.words)
        return "fact", self._ask(rng, fact.said, kind, value), fact.thanks.format(value=value)

    def ask(self, rng: Random) -> Question:
        """Returns a question about a known fact, or sometimes about an unknown one."""
        anything = not self.known or rng.random() < 0.15
        kind = self._any(rng) if anything else rng.choice(list(self.known))
        fact = FACTS[kind] if isinstance(kind, int) else PLACED
        value = self.known.get(kind)
        answer = UNKNOWN if value is None else fact.answered.format(value=value, thing=kind)
        return "recall", self._ask(rng, fact.asked, kind), answer
